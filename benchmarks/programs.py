"""The programs that `benchmarks.accelerators` compiles: recipes that matter, for any devices."""

import functools
import importlib
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import random_inputs, techniques
from configs import cifar10, fashion_mnist, imagenet
from cyclical_jax.catalogue import parse
from cyclical_jax.data import Dataset
from cyclical_jax.training import ahead
from cyclical_jax.training.devices import on_all_devices
from cyclical_jax.training.earlier import Earlier, prepare
from cyclical_jax.training.run import NOTHING_EARLIER
from cyclical_jax.training.structure import Recipe

Devices = tuple[jax.Device, ...]

# Images, height, width, channels of a training split.
IMAGENET = (1_271_167, 224, 224, 3)
CIFAR10 = (45_000, 32, 32, 3)
FASHION_MNIST = (55_000, 28, 28, 1)
NUM_CLASSES = {IMAGENET: 1000, CIFAR10: 10, FASHION_MNIST: 10}
BATCH = 128  # examples a device, or a member
STEPS = 20  # of a measured call on data that rests on devices


class Program(NamedTuple):
    """A program (state, rest) -> (the next state, more), for the devices that it is made for."""

    lowered: jax.stages.Lowered
    arguments: Callable[[], tuple[Any, Any]]  # of random data, on these devices
    examples: int  # of a step on all devices
    steps: int = 1  # of a call with these arguments


def recipes(flax: Path | None = None) -> dict[str, Callable[[Devices], Program]]:
    """Returns {name: function that makes the program}.

    Args:
      flax: The folder examples/imagenet of a checkout of Flax; None leaves its program out.
    """
    found: dict[str, Callable[[Devices], Program]] = {
        "resnet50": lambda devices: _streamed("all", "resnet50", devices),
        "resnet50 plain": lambda devices: _streamed("plain", "resnet50", devices),
        "tresnet_m": lambda devices: _streamed("all", "tresnet_m", devices),
        "cifar10 resnet18": lambda devices: _of_config(_cifar10(), "resident", CIFAR10, devices),
        "mlp": lambda devices: _of_config(_mlp(), "resident", FASHION_MNIST, devices),
    }
    for chunk in (1, 16, 32, 64):
        found[f"population of {chunk}"] = functools.partial(_population, chunk)
    for name in ("plain", *techniques.TECHNIQUES):
        found[name] = functools.partial(_technique, name)
    if flax is not None:
        found["flax resnet50"] = functools.partial(_of_flax, flax)
    return found


def _streamed(variant: str, model: str, devices: Devices) -> Program:
    config = imagenet.get_config(variant)
    config.model.name = model
    config.ema_decay = None  # as in Flax's example
    return _of_config(config, "streamed", IMAGENET, devices)


def _cifar10() -> ConfigDict:
    config = cifar10.get_config("all")
    config.model.name, config.model.dtype = "resnet18_cifar", "bfloat16"
    return config


def _mlp() -> ConfigDict:
    return fashion_mnist.get_config("all")


def _population(chunk: int, devices: Devices) -> Program:
    """Returns the program of a population of `chunk` members a device."""
    return _of_config(_mlp(), "resident", FASHION_MNIST, devices, chunk=chunk)


def _of_config(
    config: ConfigDict,
    way: str,
    shape: tuple[int, int, int, int],
    devices: Devices,
    *,
    chunk: int | None = None,
) -> Program:
    number = len(devices) if chunk is None else 1  # devices that share a batch
    config.batch_size = BATCH * number
    few = (10, *shape[1:])
    splits = (split_of(shape), split_of(few), split_of(few))
    dataset = Dataset(*splits, num_classes=NUM_CLASSES[shape])
    return _program(parse(config, num_devices=number), dataset, way, devices, chunk=chunk)


def split_of(shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a split of images [n, height, width, channels]."""
    label = jax.ShapeDtypeStruct(shape[:1], np.int32)
    return {"image": jax.ShapeDtypeStruct(shape, np.uint8), "label": label}


def _technique(name: str, devices: Devices) -> Program:
    """Returns the program of a technique's MLP in benchmarks/techniques.py."""
    dataset, changes = techniques.random_dataset(), techniques.TECHNIQUES.get(name, {})
    with tempfile.TemporaryDirectory() as workdir:
        techniques.save_start(techniques.config_of("mlp", {}), dataset, workdir)
        config = techniques.config_of("mlp", changes, workdir)
        config.batch_size = BATCH * len(devices)
        recipe = parse(config, num_devices=len(devices))
        dataset, earlier = prepare(recipe, dataset)
    return _program(recipe, dataset, "resident", devices, earlier=earlier)


def _program(
    recipe: Recipe,
    dataset: Dataset,
    way: str,
    devices: Devices,
    *,
    chunk: int | None = None,
    earlier: Earlier = NOTHING_EARLIER,
) -> Program:
    options: dict[str, Any] = {"chunk": chunk, "earlier": earlier}
    steps = STEPS if way == "resident" else 1

    def arguments():
        shapes = ahead.arguments(recipe, dataset, way, num_devices=len(devices), **options)
        return random_inputs.arguments(recipe, dataset, earlier, shapes, devices, steps=steps)

    lowered = ahead.lowered(recipe, dataset, way, devices, **options)
    return Program(lowered, arguments, BATCH * len(devices) * (chunk or 1), steps)


# ---- Flax's example


def _of_flax(folder: Path, devices: Devices) -> Program:
    """Returns the step of Flax's own ResNet-50, in bfloat16, with as many examples a device."""
    train, models = _modules_of_flax(folder)
    config = runpy.run_path(str(folder / "configs" / "default.py"))["get_config"]()
    model = models.ResNet50(num_classes=NUM_CLASSES[IMAGENET], dtype=jnp.bfloat16)
    number = BATCH * len(devices)
    rate = train.create_learning_rate_fn(config, config.learning_rate, IMAGENET[0] // number)
    step = on_all_devices(
        functools.partial(train.train_step, learning_rate_fn=rate),
        in_axes=(None, 0),
        out_axes=(None, 0),
        devices=devices,
    )
    image = jax.ShapeDtypeStruct((len(devices), BATCH, *IMAGENET[1:]), jnp.bfloat16)
    batch = {"image": image, "label": jax.ShapeDtypeStruct(image.shape[:2], np.int32)}

    def start():
        return train.create_train_state(jax.random.key(0), config, model, IMAGENET[1], rate)

    def arguments():
        made = random_inputs.random_like(batch, {"label": NUM_CLASSES[IMAGENET]})
        state = random_inputs.put(start(), devices, mapped=False)
        return state, random_inputs.put(made, devices, mapped=True)

    lowered = step.lower(jax.eval_shape(start), batch)
    return Program(lowered, arguments, number)


def _modules_of_flax(folder: Path) -> tuple[ModuleType, ModuleType]:
    """Returns its modules train and models; what reads data and writes logs is left out."""
    importlib.import_module("flax.training.checkpoints")  # before TensorFlow seems to be there
    unused = ("clu", "tensorflow", "tensorflow_datasets", "input_pipeline")
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in unused}):
        with mock.patch.object(sys, "path", [str(folder), *sys.path]):
            return importlib.import_module("train"), importlib.import_module("models")
