"""Compiles one program of `benchmarks.programs` in this process, and prints what is in it.

    python -m benchmarks.one_program TOPOLOGY RECIPE [--gpu_target=PATH] [--flax=PATH] [--text=PATH]

The last line is JSON. `benchmarks.accelerators` starts a process for each program, because a
compiler for accelerators may end the process that it is in.
"""

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from benchmarks import hlo, interleaved, programs

LOCAL = "local"  # the devices of this machine
_TPU = re.compile(r"(v\d|tpu)\w*:\d+(x\d+)+")
_GPU = re.compile(r"(\w+):(\d+x\d+x\d+)")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("topology")
    parser.add_argument("recipe")
    parser.add_argument("--gpu_target", type=Path)
    parser.add_argument("--flax", type=Path)
    parser.add_argument("--text", type=Path)
    options = parser.parse_args()
    devices = devices_of(options.topology, options.gpu_target)
    program = programs.recipes(options.flax)[options.recipe](devices)
    compiled, found = compile_(program)
    if options.text:
        options.text.write_text(compiled.as_text())
    if options.topology == LOCAL:
        found |= measured(program, compiled)
    print(json.dumps(found))


def devices_of(topology: str, gpu_target: Path | None = None) -> programs.Devices:
    """Returns the devices of a topology, such as "v5e:2x2" or "h100:1x1x4".

    Args:
      topology: `LOCAL`, or the name and the shape of one. A GPU's shape is slices x hosts x
        devices of a host.
      gpu_target: XLA's description of that GPU.
    """
    if topology == LOCAL:
        return tuple(jax.local_devices())
    if _TPU.fullmatch(topology):
        options: dict[str, Any] = {"topology_name": topology, "platform": "tpu"}
        if topology.startswith("v4"):
            options["chip_config_name"] = "megacore"  # one device a chip, as it is used
        if set(topology.partition(":")[2].split("x")) == {"1"}:
            options["chips_per_host_bounds"] = [1, 1, 1]
        return tuple(topologies.get_topology_desc(**options).devices)
    name, shape = _GPU.fullmatch(topology).groups()
    target = gpu_target.read_text()
    found = topologies.get_topology_desc(
        platform="cuda", topology_name=name, topology=shape, target_config=target
    )
    return tuple(found.devices)


def problem_of(topology: str, gpu_target: Path | None) -> str | None:
    """Returns what is wrong with a name of `devices_of`, in a line."""
    if topology == LOCAL or _TPU.fullmatch(topology):
        return None
    if not _GPU.fullmatch(topology):
        return f'--topologies: {topology!r} must be as "v5e:2x2", or as "h100:1x1x4" for GPUs.'
    if gpu_target is None:
        return f"--topologies: {topology} needs --gpu_target, XLA's description of that GPU."
    return None if gpu_target.is_file() else f"--gpu_target {gpu_target} is not there."


def compile_(program: programs.Program) -> tuple[jax.stages.Compiled, dict[str, Any]]:
    """Returns the compiled program, and the facts and estimates that the compiler has of it."""
    start = time.perf_counter()
    compiled = program.lowered.compile()
    seconds = time.perf_counter() - start
    return compiled, {"compile_seconds": round(seconds, 1)} | facts(compiled)


def facts(compiled: jax.stages.Compiled) -> dict[str, Any]:
    """Returns what is in a program of one device. What the platform has no estimate of is None."""
    text, cost, memory = compiled.as_text(), compiled.cost_analysis(), compiled.memory_analysis()
    program, cost = hlo.computations(text), cost or {}
    number, of_bf16 = hlo.convolutions(program)
    optimal = cost.get("optimal_seconds")
    return {
        "flops": cost.get("flops"),
        "bytes": cost.get("bytes accessed"),
        "optimal_seconds": None if optimal is None else hlo.optimal_seconds(program, optimal),
        "cycles": hlo.estimated_cycles(program) or None,
        "peak_bytes": memory.peak_memory_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "donated": len(hlo.donated(text)),
        "collectives": hlo.collectives(program),
        "copies": hlo.copies(program),
        "convolutions": number,
        "bf16_convolutions": of_bf16,
    }


def measured(
    program: programs.Program,
    compiled: jax.stages.Compiled,
    *,
    rounds: int = 7,
    round_seconds: float = 1.0,
) -> dict[str, Any]:
    """Runs the compiled program on its devices; returns the time of a step, and the memory."""
    state, rest = program.arguments()

    def call():
        nonlocal state
        state, more = compiled(state, rest)
        jax.block_until_ready((state, more))

    seconds = interleaved.time_interleaved(
        {"call": call}, rounds=rounds, round_seconds=round_seconds
    )
    steps = sorted(seconds["call"] / program.steps)
    memory = jax.local_devices()[0].memory_stats() or {}  # a CPU has none
    return {
        "seconds": steps[len(steps) // 2],
        "range_of_seconds": [steps[0], steps[-1]],
        "examples_a_second": program.examples / steps[len(steps) // 2],
        "peak_bytes_in_use": memory.get("peak_bytes_in_use"),
        "num_devices": jax.local_device_count(),
        "device": jax.local_devices()[0].device_kind,
    }


if __name__ == "__main__":
    main()
