"""Prepares a dataset for `cyclical_jax.data.load`, without TensorFlow.

python -m experiments.prepare_data --dataset=fashion_mnist
python -m experiments.prepare_data --dataset=tfds:svhn_cropped
"""

import sys
from typing import NoReturn

from absl import flags

from cyclical_jax._extras import to_install
from experiments import command_line, paths
from experiments.waiting import Waiting

_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "Dataset to prepare, such as fashion_mnist or tfds:NAME.",
    required=True,
)
_DATA_DIR = paths.define("data_dir", None, "Folder of TFDS's datasets; by default TFDS's own.")
_RAW_DIR = paths.define("raw_dir", None, "Folder of the official files, if they are here.")


def main() -> None:
    """Prepares the dataset and prints where it is."""
    try:
        with Waiting(f"preparing {_DATASET.value}"):
            from cyclical_jax.data.prepare import prepare  # slow, and --help need not wait

            builder = prepare(_DATASET.value, data_dir=_DATA_DIR.value, raw_dir=_RAW_DIR.value)
    except ImportError as error:
        _fail(f"{error}. Install it: {to_install('train')}.")
    except (OSError, ValueError) as error:
        _fail(str(error))
    counts = [f"{info.num_examples:,} {split}" for split, info in builder.info.splits.items()]
    print(f"{_DATASET.value} is in {builder.data_path}: {', '.join(counts)} examples.")


def _fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    command_line.run(main)
