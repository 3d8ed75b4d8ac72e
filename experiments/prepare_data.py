"""Puts a dataset where `cyclical_jax.data.load` finds it, without TensorFlow.

python -m experiments.prepare_data --dataset=fashion_mnist
python -m experiments.prepare_data --dataset=tfds:svhn_cropped
"""

import sys
from typing import NoReturn

from absl import app, flags

_DATASET = flags.DEFINE_string("dataset", None, "Its name here, or tfds:NAME.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps its datasets.")
_RAW_DIR = flags.DEFINE_string("raw_dir", None, "Where the official files are, if here.")


def main(argv: list[str]) -> None:
    """Prepares the dataset and prints where it is."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown argument {argv[1]!r}.")
    try:
        from cyclical_jax.data.prepare import prepare  # slow to import, and --help need not wait

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
    app.run(main)
