"""Flags whose value is a path on this machine."""

from pathlib import Path

from absl import flags

from cyclical_jax import _checks

flags.disclaim_key_flags()  # --help of the file that calls `define` lists the flag


class LocalPath(flags.ArgumentParser):
    """Parses the value of the flag `--name`; "~" is the home directory, and buckets are refused."""

    syntactic_help = "a path"

    def __init__(self, name: str):
        self._name = name

    def parse(self, argument: str | Path) -> Path:
        return _checks.local_path(f"--{self._name}", argument)

    def flag_type(self) -> str:
        return "path"


class LocalPaths(LocalPath):
    """Parses several paths, with commas between them."""

    syntactic_help = "paths with commas between them"

    def parse(self, argument: str | list[Path]) -> list[Path]:
        parts = argument.split(",") if isinstance(argument, str) else argument
        return [super(LocalPaths, self).parse(part) for part in parts]


def define(name: str, default: str | None, help: str) -> flags.FlagHolder:
    """Defines a flag that takes a path, and returns its holder."""
    return flags.DEFINE(LocalPath(name), name, default, help, serializer=flags.ArgumentSerializer())


def define_several(name: str, default: str | None, help: str) -> flags.FlagHolder:
    """Defines a flag that takes paths with commas between them."""
    serializer = flags.ListSerializer(",")
    return flags.DEFINE(LocalPaths(name), name, default, help, serializer=serializer)


def define_multi(name: str, default: list[str], help: str) -> flags.FlagHolder:
    """Defines a flag that takes a path and may be given several times."""
    serializer = flags.ArgumentSerializer()
    return flags.DEFINE_multi(LocalPath(name), serializer, name, default, help)
