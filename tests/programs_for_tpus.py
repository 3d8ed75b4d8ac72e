"""Compiles MLP programs for TPUs that are not here; prints a line of JSON for each.

It runs as a process of its own, because libtpu may end the one that it is in.
"""

import json

import jax

from benchmarks import one_program, programs
from configs import fashion_mnist
from cyclical_jax.catalogue import parse
from cyclical_jax.data import Dataset
from cyclical_jax.training import ahead

WIDTHS = (512, 256)
CASES = (  # way, topology, members of a population on a device
    ("resident", "v5e:2x2", None),
    ("streamed", "v5e:2x2", None),
    ("resident", "v5e:16x16", None),
    ("streamed", "v5e:16x16", None),
    ("resident", "v5e:2x2", 16),
)


def main():
    # A TPU would rather have images of three channels in another layout.
    splits = (programs.split_of((number, 32, 32, 3)) for number in (8192, 10, 10))
    dataset = Dataset(*splits, num_classes=10)
    for way, topology, chunk in CASES:
        devices = one_program.devices_of(topology)
        sharing = len(devices) if chunk is None else 1  # devices that share a batch, and a state
        recipe, number = _recipe(sharing), {"num_devices": len(devices)}
        state, _ = ahead.arguments(recipe, dataset, way, **number, chunk=chunk)
        program = ahead.lowered(recipe, dataset, way, devices, chunk=chunk)
        params = _num_bytes(state.params) * sharing // len(devices)  # of a device
        row = {"params": params, "state_leaves": len(jax.tree.leaves(state))}
        print(json.dumps(row | one_program.facts(program.compile())), flush=True)


def _recipe(num_devices: int):
    config = fashion_mnist.get_config("all")
    config.model.hidden_sizes, config.batch_size = WIDTHS, 8 * num_devices
    return parse(config, num_devices=num_devices)


def _num_bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


if __name__ == "__main__":
    main()
