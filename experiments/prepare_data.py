"""Puts a dataset where `cyclical_jax.data.load` finds it, without TensorFlow.

python -m experiments.prepare_data --dataset=fashion_mnist
python -m experiments.prepare_data --dataset=tfds:svhn_cropped
"""

import sys
from typing import NoReturn

from absl import flags

from experiments import command_line, paths
from experiments.waiting import Waiting

_DATASET = flags.DEFINE_string("dataset", None, "Its name here, or tfds:NAME.", required=True)
_DATA_DIR = paths.define("data_dir", None, "Where TFDS keeps its datasets.")
_RAW_DIR = paths.define("raw_dir", None, "Where the official files are, if here.")


def main() -> None:
    """Prepares the dataset and prints where it is."""
    try:
        with Waiting(f"preparing {_DATASET.value}"):
            from cyclical_jax.data.prepare import prepare  # slow, and --help need not wait

            builder = prepare(_DATASET.value, data_dir=_DATA_DIR.value, raw_dir=_RAW_DIR.value)
    except ImportError as error:
        _fail(f"{error}. Install it: pip install 'cyclical-jax[train]'")
    except (OSError, ValueError) as error:
        _fail(str(error))
    counts = [f"{info.num_examples} {split}" for split, info in builder.info.splits.items()]
    print(f"{_DATASET.value} is in {builder.data_path}: {', '.join(counts)} examples.")


def _fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    command_line.run(main)
