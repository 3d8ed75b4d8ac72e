"""Commands on workdirs whose parts are another user's; `setpriv` has taken root's privileges away.

It is given a folder and the workdir of a finished run, which it copies. It prints a line of JSON
for each command: what is another's, its mode, the command, its exit code and what it told.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import jax

from tests import commands

OTHER = 65534
CLOSED, READABLE = {True: 0o700, False: 0o600}, {True: 0o755, False: 0o644}  # of a folder, a file
PARTS = (
    "",
    "config.json",
    "dataset.json",
    "environment.json",
    "metrics.jsonl",
    "result.json",
    ".lock",
    "checkpoints",
)


def give_away(path: Path, mode: int):
    for own in (path, *path.rglob("*")):
        os.chown(own, OTHER, OTHER)
    path.chmod(mode)


def call(what, mode, script, *arguments):
    ended = commands.in_this_process(script, *arguments)
    print(json.dumps([what, mode, script, ended.returncode, ended.stderr]), flush=True)


def call_all(what: str, mode: int, workdir: Path, config: list[str]):
    call(what, mode, "train", *config, f"--workdir={workdir}")
    call(what, mode, "evaluate", f"--workdir={workdir}")
    output = f"--output={workdir.parent / 'report.html'}"
    call(what, mode, "report", f"--results={workdir}", output)


def main(folder: Path, run: Path, *config: str):
    for part in PARTS:
        for modes in (CLOSED, READABLE):
            for finished in {part in ("", "result.json"), False}:
                workdir = folder / f"{part}{modes[True]:o}{finished}" / "run"
                shutil.copytree(run, workdir)
                if not finished:
                    (workdir / "result.json").unlink()
                if (workdir / part).exists():
                    mode = modes[(workdir / part).is_dir()]
                    give_away(workdir / part, mode)
                    call_all(part, mode, workdir, config)
    for mode in (0o555, 0o700):
        parent = folder / f"parent{mode:o}"
        parent.mkdir()
        give_away(parent, mode)
        call_all("parent", mode, parent / "run", config)
        table = "--table=weight_decay", "--datasets=digits"
        call("parent", mode, "table", *table, f"--workdir={parent}")


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)  # which `commands` is made for
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
