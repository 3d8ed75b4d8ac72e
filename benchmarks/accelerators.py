"""Compiles programs for TPUs and GPUs that are not here, and prints what is in them.

    python -m benchmarks.accelerators --topologies v5e:2x2 --recipes resnet50 "resnet50 plain"
    python -m benchmarks.accelerators --topologies h100:1x1x4 --gpu_target h100.txtpb --recipes mlp
    python -m benchmarks.accelerators --measure --recipes resnet50 "resnet50 plain"

All figures are of one device: floating-point operations, bytes accessed, the largest use of memory,
collectives, copies of 1 MB and more, the share of convolutions and matrix products in bf16. Times
are estimated by the compiler. A loop's body is counted once, so that a run on data that rests on
the devices shows one step. --measure runs the same programs on the devices of this machine with
random data, and prints real times beside the estimates. docs/accelerators.md says what to install,
and has the tables.

Each program is compiled in a process of its own: one that its compiler kills is a row, too. Results
are kept in --results, a line of JSON each, and what is there is not compiled again.
"""

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import accelerator_tables, programs
from benchmarks.one_program import LOCAL, problem_of
from experiments.environment import revision

ROOT = Path(__file__).parents[1]
_DIED = "the compiler died of"


def main():
    options = _options()
    topologies = [*options.topologies, *([LOCAL] if options.measure else [])]
    rows = []
    for topology in topologies:
        for recipe in options.recipes:
            row = _found(options.results, topology, recipe)
            if row is None:
                row = {"topology": topology, "recipe": recipe}
                row |= _compiled(options, topology, recipe)
                _add(options.results, row)
                print(f"{topology}, {recipe}: {row.get('error', 'compiled')}", file=sys.stderr)
            rows.append(row)
    tables = {
        "Estimated by the compiler; nothing here ran on a device.": accelerator_tables.programs,
        "What is in the programs.": accelerator_tables.contents,
        "Measured on the devices of this machine.": accelerator_tables.measurements,
        "Ratios of estimates, and of measured times.": accelerator_tables.ratios,
    }
    made = {heading: table(rows) for heading, table in tables.items()}
    print("\n\n".join(f"{heading}\n\n{table}" for heading, table in made.items() if table))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerators",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--topologies", nargs="*", default=[], help='such as "v5e:2x2"')
    parser.add_argument("--recipes", nargs="+", help="all by default")
    parser.add_argument("--measure", action="store_true", help="also on this machine's devices")
    parser.add_argument("--gpu_target", type=Path, help="XLA's description of the GPU")
    parser.add_argument("--flax", type=Path, help="folder examples/imagenet of Flax")
    parser.add_argument("--results", type=Path, default=Path("runs/accelerators.jsonl"))
    options = parser.parse_args()
    known = programs.recipes(options.flax)
    options.recipes = options.recipes or list(known)
    problems = [
        f"--recipes: there is no {recipe!r}; there are {', '.join(known)}, and with --flax also "
        "flax resnet50."
        for recipe in options.recipes
        if recipe not in known
    ]
    problems += [problem_of(each, options.gpu_target) or "" for each in options.topologies]
    if options.flax is not None and not (options.flax / "train.py").is_file():
        problems.append(f"--flax {options.flax} must be a folder with Flax's train.py in it.")
    if not options.topologies and not options.measure:
        problems.append('--topologies must name one, such as "v5e:2x2", or give --measure.')
    if problems := [problem for problem in problems if problem]:
        sys.exit("\n".join(problems))
    return options


# ---- one program, in a process


def _compiled(options: argparse.Namespace, topology: str, recipe: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.one_program", topology, recipe]
    for name in ("gpu_target", "flax"):
        if path := getattr(options, name):
            command += [f"--{name}", str(path.resolve())]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(topology), capture_output=True, text=True
    )
    about = {"date": datetime.date.today().isoformat(), "code": revision()}
    return about | outcome(done.returncode, done.stdout, done.stderr)


def environment(topology: str) -> dict[str, str]:
    """Returns the variables of a process that compiles for a topology.

    libtpu is that of TPU_LIBRARY_PATH; or where `make test-slow` puts it; or the installed package.
    """
    if topology == LOCAL:
        return dict(os.environ)
    library = Path(sys.prefix, "libtpu", "libtpu", "libtpu.so")
    here = {"TPU_LIBRARY_PATH": str(library)} if library.exists() else {}
    offline = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_PLATFORMS": "cpu"}
    return here | os.environ | offline


def outcome(code: int, out: str, err: str) -> dict[str, Any]:
    """Returns what the process printed, or {"error": why there is nothing}."""
    if code == 0:
        return json.loads(out.splitlines()[-1])
    if code < 0:
        return {"error": f"{_DIED} {signal.Signals(-code).name}"}
    lines = err.strip().splitlines()
    return {"error": lines[-1] if lines else f"ended with {code}"}


def _found(results: Path, topology: str, recipe: str) -> dict[str, Any] | None:
    """Returns the last row of that program; None where there is none, or an error can be mended."""
    found = None
    for line in results.read_text().splitlines() if results.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # a stop cut it off
            continue
        if (row["topology"], row["recipe"]) == (topology, recipe):
            found = row if row.get("error", _DIED).startswith(_DIED) else None
    return found


def _add(results: Path, row: dict[str, Any]) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
