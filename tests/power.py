"""What a disk may hold after a power failure, by the recorded changes of a process.

`record` runs a command and returns each change that it made below a folder, in order: power.c takes
them from all threads, those of C++ libraries too. `Disk` applies changes, and tells what may be
left of them. A file system keeps what was synced, and is free in all that was not: a file's content
by an fsync of the file, a name (made, renamed or removed) by an fsync of its folder.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)
MARKS = "marks"  # a file below the root: a line for each thing that is complete by then
_MOST = 20  # problems are enough to see what is wrong

Tree = dict[str, bytes | None]  # {path below the root: content}; None is a folder


class Change(NamedTuple):
    """One of create, write, truncate, mkdir, remove, rename, link, sync; or "size", of a file."""

    name: str
    path: str  # below the root
    offset: int = 0  # of what is written, or the size of the file
    data: bytes = b""  # what is written
    target: str = ""  # the new name


def record(root: Path, scratch: Path, *command: str | Path, **environment: str) -> list[Change]:
    """Returns the changes below `root` that a command makes; the shim and its log go to `scratch`.

    Raises:
      AssertionError: The command fails, or the changes do not lead to what it left.
    """
    shim, log = scratch / "power.so", scratch / "changes"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True)
    names = {"LD_PRELOAD": str(shim), "POWER_ROOT": str(root), "POWER_LOG": str(log)}
    done = subprocess.run(command, env=os.environ | environment | names, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    changes = list(_changes(log.read_bytes(), str(root)))
    assert Disk(changes).left() == tree_of(root), "a change was made that was not recorded"
    return [change for change in changes if change.name != "size"]


def _changes(log: bytes, root: str) -> Iterator[Change]:
    at = 0
    while at < len(log):
        end = log.index(b"\n", at)
        name, *numbers = log[at:end].decode().split()
        offset, of_path, of_data = map(int, numbers)
        path = log[end + 1 : end + 1 + of_path].decode().removeprefix(root).lstrip("/")
        at = end + 1 + of_path + of_data
        data = log[at - of_data : at]
        if name in ("rename", "link"):
            yield Change(name, path, target=data.decode().removeprefix(root).lstrip("/"))
        elif not path.endswith(" (deleted)"):  # a file that is open still, but has no name
            yield Change(name, path, offset, data)


class _File:
    def __init__(self):
        self.content = self.synced = b""


class _Folder:
    def __init__(self):
        self.names: dict[str, _File | _Folder] = {}
        self.synced: dict[str, _File | _Folder] = {}


# What may be left of the names in a folder.
NAMES: dict[str, Callable[[_Folder], dict[str, _File | _Folder]]] = {
    "all": lambda folder: folder.names,
    "synced": lambda folder: folder.synced,
    "removals": lambda folder: {
        name: node for name, node in folder.synced.items() if name in folder.names
    },
    "additions": lambda folder: folder.synced | folder.names,
}
# What may be left of the content of a file.
CONTENTS: dict[str, Callable[[_File], bytes]] = {
    "all": lambda file: file.content,
    "synced": lambda file: file.synced,
    "half": lambda file: file.content[: (_num_synced(file) + len(file.content)) // 2],
    "zeros": lambda file: file.content[: _num_synced(file)].ljust(len(file.content), b"\0"),
}


class Disk:
    """A folder to which changes are made, and what a power failure would leave of it."""

    def __init__(self, changes: Iterable[Change] = ()):
        self._root = _Folder()
        for change in changes:
            self.apply(change)

    def apply(self, change: Change) -> None:
        """Makes a change."""
        folder, name = self._place(change.path)
        node = folder.names.get(name) if change.path else self._root
        match change.name:
            case "create":
                folder.names[name] = _File()
            case "mkdir":
                folder.names[name] = _Folder()
            case "write":
                before = node.content.ljust(change.offset, b"\0")
                end = change.offset + len(change.data)
                node.content = before[: change.offset] + change.data + before[end:]
            case "truncate":
                node.content = node.content[: change.offset].ljust(change.offset, b"\0")
            case "remove":
                del folder.names[name]
            case "rename" | "link":
                if change.name == "rename":
                    del folder.names[name]
                target, name = self._place(change.target)
                target.names[name] = node
            case "size":
                assert len(node.content) == change.offset, "a change was made before, unrecorded"
            case "sync":
                node.synced = dict(node.names) if isinstance(node, _Folder) else node.content

    def left(self, names: str = "all", contents: str = "all") -> Tree:
        """Returns what is left, where `names` of `NAMES` and `contents` of `CONTENTS` are kept."""
        return dict(_left(self._root, "", NAMES[names], CONTENTS[contents]))

    def _place(self, path: str) -> tuple[_Folder, str]:
        *parents, name = path.split("/")
        folder = self._root
        for parent in parents:
            folder = folder.names[parent]
        return folder, name


def _left(folder: _Folder, prefix: str, names, contents) -> Iterator[tuple[str, bytes | None]]:
    for name, node in names(folder).items():
        path = f"{prefix}{name}"
        if isinstance(node, _File):
            yield path, contents(node)
        else:
            yield path, None
            yield from _left(node, f"{path}/", names, contents)


def _num_synced(file: _File) -> int:
    """Returns the number of first bytes that are as they were synced."""
    return len(os.path.commonprefix([file.content, file.synced]))


def tree_of(folder: Path) -> Tree:
    """Returns what a folder holds."""
    paths = sorted(folder.rglob("*"))
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in paths
    }


def put(tree: Tree, folder: Path) -> None:
    """Makes a folder that holds a tree."""
    folder.mkdir()
    for path, content in sorted(tree.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def trees(changes: list[Change]) -> Iterator[tuple[str, Tree, list[str]]]:
    """Yields all that may be left at each cut: its name, the tree, and the lines known by then.

    What differs only within a checkpoint that was not complete comes once: it is deleted unread.
    """
    disk, lines, seen = Disk(), [], set()
    for number, change in enumerate(changes):
        if change.path == MARKS:
            lines = lines + change.data.decode().split()
            continue
        disk.apply(change)
        for names in NAMES:
            for contents in CONTENTS:
                tree = disk.left(names, contents)
                read = {item for item in tree.items() if ".orbax-checkpoint-tmp/" not in item[0]}
                if (key := (len(lines), hash(frozenset(read)))) not in seen:
                    seen.add(key)
                    yield f"{names} names, {contents} contents after {number}", tree, lines


def assert_safe(
    changes: list[Change], check: Callable[[Path, list[str]], None], scratch: Path
) -> int:
    """Calls `check` with a folder for each tree and the lines; returns how many there were."""
    problems, number = [], 0
    for number, (name, tree, lines) in enumerate(trees(changes), 1):
        folder = scratch / str(number)
        put(tree, folder)
        try:
            with mock.patch.object(os, "fsync"):  # which is slow, and checks need it not
                check(folder, lines)
        except Exception as error:  # each of them is one too many, whatever it is
            problems.append(f"{name}: {type(error).__name__} {error}"[:300])
        shutil.rmtree(folder)
        if len(problems) == _MOST:
            break
    shown = "\n".join(problems)
    assert not problems, f"{len(problems)} of {number} trees:\n{shown}"
    return number
