"""The time of an epoch with each technique, over that of the plain one, on the same batches.

    python -m benchmarks.techniques

It uses all cores, batches of 128 images of 28 x 28, the MLP of configs/fashion_mnist.py and a small
CNN. Techniques that learn from examples without labels get 128 of these beside each batch. What a
teacher and a scorer say is random, and the earlier run of fine-tuning was not trained: only the
epoch is timed, and none of these values changes its time. A
technique that is not used costs nothing: the compiled program is the same, which
tests/training/test_techniques.py checks.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import interleaved, runs
from configs import fashion_mnist
from cyclical_jax.catalogue import parse
from cyclical_jax.data import Dataset
from cyclical_jax.training import run
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.files import CHECKPOINTS
from cyclical_jax.training.recipe import cyclical, put

STEPS, BATCH = 20, 128
EARLIER_RUN = "the earlier run"  # `config_of` puts the workdir of one in its place
_HALF = cyclical(easy=0.5, hard=1.0)
TECHNIQUES = {
    "weight decay": {"optimizer.weight_decay": cyclical(1e-4, 1e-3)},
    "clipping": {"optimizer.max_norm": cyclical(0.5, 2.0)},
    "temperature": {"loss.temperature": cyclical(0.5, 2.0)},
    "cyclical focal loss": {"loss.name": "cyclical_focal", "loss.label_smoothing": 0.1},
    "batch size: accumulation": {"accumulate": cyclical(4, 1)},
    "augmentation: crop, flip": {
        "augment.operations": ("crop", "flip"),
        "augment.strength": _HALF,
    },
    "augmentation: RandAugment's": {"augment.operations": ("mix",), "augment.strength": _HALF},
    "dropout": {"model.dropout": cyclical(0.1, 0.3)},
    "moving average": {"ema_decay": cyclical(0.9, 0.999)},
    "distillation": {"distillation.teacher": "given"},
    "curriculum": {"curriculum.scorer": "given"},
    "curriculum of its own losses": {"running_curriculum.preference": cyclical(4, 0)},
    "class weights": {"loss.class_weights": "balanced"},
    "fine-tuning": {"finetuning.start": EARLIER_RUN, "finetuning.share": cyclical(0, 1)},
    "without labels": {
        "subset": "balanced 4000",
        "semisupervised.unlabelled_weight": cyclical(0, 1),
        "semisupervised.weak": ("flip",),
        "semisupervised.strong": ("flip", "crop", "erase"),
    },
}


def main():
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, batch {BATCH} of 28 x 28")
    dataset = random_dataset()
    for model, way in {"mlp": "resident", "cnn": "stepwise"}.items():
        seconds = interleaved.time_interleaved(
            epochs(model, way, dataset), rounds=7, round_seconds=0.1
        )
        plain = interleaved.median_microseconds(seconds, "plain") / STEPS
        print(f"\n{model}: the plain step takes {plain:.0f} us")
        for name in TECHNIQUES:
            print(f"{name:>28} {interleaved.ratio(seconds, name, 'plain'):>6.2f}x", flush=True)


def epochs(model: str, way: str, dataset: Dataset) -> dict[str, Callable[[], None]]:
    """Returns the epoch of the plain run and of each technique, on a `random_dataset`."""
    with tempfile.TemporaryDirectory() as workdir:
        save_start(config_of(model, {}), dataset, workdir)
        changes = {"plain": {}, **TECHNIQUES}
        return {
            name: runs.epoch(config_of(model, own, workdir), dataset, way)
            for name, own in changes.items()
        }


def save_start(config: ConfigDict, dataset: Dataset, workdir: str) -> None:
    """Saves a run before its first update, from which another can start."""
    with Checkpoints(Path(workdir) / CHECKPOINTS) as checkpoints:
        checkpoints.save(run.begin(parse(config), dataset))
        checkpoints.wait()


def config_of(model: str, changes: Mapping[str, Any], earlier_run: str | None = None) -> ConfigDict:
    """Returns the config of a technique's changes; `earlier_run` is the workdir of one."""
    config = fashion_mnist.get_config()
    config.batch_size = BATCH
    config.model.name = model
    for key, value in changes.items():
        put(config, key, earlier_run if value == EARLIER_RUN else value)
    return config


def random_dataset() -> Dataset:
    """Returns a random dataset with all entries that techniques add to examples."""
    dataset, rng = runs.random_dataset(BATCH * STEPS, side=28), np.random.default_rng(1)
    number = len(dataset.train["label"])
    added = {
        "teacher": rng.normal(size=(number, 10)).astype(np.float32),
        "rank": rng.uniform(size=number).astype(np.float32),
        "weight": np.ones(number, np.float32),
        "unlabelled": dataset.train["image"],
    }
    return dataset._replace(train=dataset.train | added)


if __name__ == "__main__":
    main()
