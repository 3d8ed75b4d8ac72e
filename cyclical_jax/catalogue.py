"""The list of all tasks and techniques, in the order in which they act, and ways to add to it."""

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from cyclical_jax.models import NETWORKS
from cyclical_jax.tasks import classification, multilabel
from cyclical_jax.tasks.classification import LOSSES
from cyclical_jax.techniques import (
    augmentation,
    class_weights,
    curriculum,
    distillation,
    finetuning,
    gradient_norm,
    learning_rate,
    moving_average,
    network,
    optimizer,
    precision,
    running_curriculum,
    semisupervised,
)
from cyclical_jax.training import listing, recipe
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.own_files import content_of, executed
from cyclical_jax.training.structure import Catalogue, Recipe
from cyclical_jax.training.technique import Task, Technique

TASKS = (classification.TASK, multilabel.TASK)
TECHNIQUES = (
    network.TECHNIQUE,
    optimizer.TECHNIQUE,
    learning_rate.TECHNIQUE,
    finetuning.TECHNIQUE,
    augmentation.TECHNIQUE,
    semisupervised.TECHNIQUE,
    distillation.TECHNIQUE,
    curriculum.TECHNIQUE,
    running_curriculum.TECHNIQUE,
    class_weights.TECHNIQUE,
    moving_average.TECHNIQUE,
    gradient_norm.TECHNIQUE,
    precision.TECHNIQUE,
)
# {key of an earlier version: what is set now in its place}
MOVED = {
    "curriculum.name": "curriculum.scorer for the losses of an earlier run, or "
    "running_curriculum.preference for running averages",
    "curriculum.average_decay": "running_curriculum.average_decay",
    "loss.margin": "multilabel.margin",
    "optimizer.num_restarts": "optimizer.first_cycle, the length of the first cycle",
}
# {key: (what it is, the words that other projects use for it)}
_CUSTOMARY = {
    "optimizer.learning_rate": ("learning rate", "lr base_lr max_lr peak_lr eta"),
    "optimizer.learning_rate_schedule": (
        "schedule of the learning rate",
        "schedule scheduler lr_schedule lr_scheduler sched",
    ),
    "optimizer.warmup": (
        "warm-up, such as '5 epochs',",
        "warmup_epochs warmup_steps warmup_updates num_warmup_steps",
    ),
    "optimizer.weight_decay": ("weight decay", "wd decay l2"),
    "optimizer.max_norm": (
        "clip of the gradient's norm",
        "clip grad_clip clip_grad clip_norm grad_norm_clip max_grad_norm gradient_clip_val",
    ),
    "optimizer.clipping": ("adaptive clip of the gradient", "agc"),
    "optimizer.name": ("optimizer's name", "optimizer opt optim"),
    "optimizer.b1": ("first beta of adamw", "beta1 beta_1 betas"),
    "optimizer.b2": ("second beta of adamw", "beta2 beta_2"),
    "optimizer.eps": ("epsilon of adamw", "epsilon"),
    "model.name": ("model's name", "model arch architecture network net backbone"),
    "model.dropout": ("dropout", "drop drop_rate dropout_rate"),
    "model.stochastic_depth": ("stochastic depth", "drop_path drop_path_rate"),
    "model.dtype": ("number type", "precision amp fp16 bf16 mixed_precision half_precision"),
    "precision.weights": (
        "number of bits of the weights",
        "bits num_bits bit_width quantization quantize quantized qat weight_bits w_bits",
    ),
    "precision.activations": ("number of bits of activations", "activation_bits act_bits a_bits"),
    "precision.gradients": ("number of bits of gradients", "gradient_bits grad_bits"),
    "loss.name": ("loss's name", "loss criterion loss_fn loss_name"),
    "loss.label_smoothing": ("label smoothing", "smoothing"),
    "augment.operations": ("augmentation", "augment augmentation augmentations aug mixup cutmix"),
    "duration": (
        "length of training, such as '40 epochs' or '1000 steps',",
        "epochs num_epochs max_epochs n_epochs num_train_epochs train_epochs "
        "steps num_steps max_steps total_steps train_steps num_train_steps iterations",
    ),
    "batch_size": ("batch size", "bs batch batchsize train_batch_size per_device_batch_size"),
    "accumulate": (
        "number of batches per update",
        "accum accumulation grad_accum accumulation_steps gradient_accumulation_steps "
        "accumulate_grad_batches",
    ),
    "dataset": ("dataset", "data dataset_name"),
    "data_dir": ("folder of the data", "data_path data_root root"),
    "ema_decay": ("decay of the moving average", "ema model_ema"),
    "finetuning.start": ("run from which training starts", "pretrained init_from init_checkpoint"),
    "seed": ("seed", "random_seed rng_seed"),
    "cycle.factor": ("factor of all cycles", "cyclical_factor"),
}
# ... and those that are no keys: options of the command.
_OPTIONS = {
    "workers": "the number of reading processes is the option --num_workers",
    "num_workers": "the number of reading processes is the option --num_workers",
    "resume": "the same command again resumes a run",
    "output_dir": "the folder of a run is the option --workdir",
    "workdir": "the folder of a run is the option --workdir",
    "save_every": "the time between two checkpoints is the option --save_every",
}
CUSTOMARY = _OPTIONS | {
    word: f"the {what} is {key}"
    for key, (what, words) in _CUSTOMARY.items()
    for word in words.split()
}
CATALOGUE = Catalogue(TASKS, TECHNIQUES, tuple(MOVED.items()), tuple(CUSTOMARY.items()))

_ADDED = ("TECHNIQUES", "TASKS", "MODELS", "LOSSES")  # what a plugin may define


def default_config(catalogue: Catalogue = CATALOGUE) -> ConfigDict:
    """Returns a config with all keys at their defaults; `parse` checks changed values."""
    return recipe.default_config(catalogue)


def parse(config: ConfigDict, *, num_devices: int = 1, catalogue: Catalogue = CATALOGUE) -> Recipe:
    """Checks `config` and returns its recipe.

    Args:
      config: All keys of the catalogue, as `default_config` has them. The keys of a file that it
        names may be missing: they are at their defaults.
      num_devices: Number of devices that share a batch.
      catalogue: The tasks and techniques that there are.

    Raises:
      RecipeError: The config cannot be run; a line for each problem, all at once.
    """
    return recipe.parse(catalogue, config, num_devices=num_devices)


def describe(config: ConfigDict, catalogue: Catalogue = CATALOGUE) -> str:
    """Returns every key of a config, as text: value, meaning, what is allowed and the default."""
    return listing.listed(catalogue, config.to_dict())


# ---- what somebody else adds


def extended(
    *,
    techniques: Iterable[Technique] = (),
    tasks: Iterable[Task] = (),
    models: Mapping[str, Any] | None = None,
    losses: Mapping[str, Any] | None = None,
    plugins: Sequence[tuple[str, str]] = (),
) -> Catalogue:
    """Returns a catalogue with further entries, which come after ours.

    Args:
      techniques, tasks: Further entries, in their order.
      models: {word for model.name: linen module class, `Network`, or `NetworkWithKeys`}.
      losses: {word for loss.name: function (logits, labels, **knobs) -> [batch], or `Loss`}.
      plugins: (name, digest of the content) of the files that they come from.

    Raises:
      RecipeError: A name or a key is taken already, or an argument of a model or a loss has no key;
        a line.
    """
    _check_entries(Technique, "techniques", techniques := tuple(_listed(techniques)))
    _check_entries(Task, "tasks", tasks := tuple(_listed(tasks)))
    for what, given in (("models", models), ("losses", losses)):
        if not isinstance(given or {}, Mapping):
            raise RecipeError(f"{what} must be a dictionary of names, got {given!r}.")
    own_losses = {name: classification.as_loss(name, of) for name, of in (losses or {}).items()}
    own_models = {name: network.as_network(name, of) for name, of in (models or {}).items()}
    _refuse_known("loss", own_losses, LOSSES)
    _refuse_known("model", own_models, NETWORKS)
    ours: tuple[Technique, ...] = TECHNIQUES
    if own_models:
        ours = (network.technique(own_models), *ours[1:])
    first = classification.task(own_losses) if own_losses else classification.TASK
    return Catalogue(
        (first, *TASKS[1:], *tasks),
        (*ours, *techniques),
        CATALOGUE.moved,
        CATALOGUE.customary,
        tuple(plugins),
    )


def with_network(name: str, catalogue: Catalogue = CATALOGUE) -> Catalogue:
    """Returns a catalogue with a linen module class of your own, as `model.name` names it.

    The attributes of the class are keys, and `default_config` of the catalogue names the class.

    Args:
      name: "path/to/file.py:ClassName", or "package.module:ClassName".
      catalogue: The catalogue to which it is added.

    Raises:
      RecipeError: There is no such class, or it cannot be a network; a line.
    """
    return catalogue.of({network.NAME: name})


def with_plugins(paths: Sequence[str | Path]) -> Catalogue:
    """Returns a catalogue with the TECHNIQUES, TASKS, MODELS and LOSSES that files define.

    The same files give the same object as long as their content does not change.

    Raises:
      RecipeError: A file cannot be run, defines none of these, or as in `extended`; a line.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    files = tuple((str(path), content_of(f"--plugin {path}", Path(path))) for path in paths)
    return _with_files(files) if files else CATALOGUE


@functools.lru_cache(maxsize=8)
def _with_files(files: tuple[tuple[str, bytes], ...]) -> Catalogue:
    digests = [hashlib.sha256(content).hexdigest() for _, content in files]
    found = [_executed(Path(path), content) for path, content in files]
    names = [Path(path).name for path, _ in files]
    if len(set(names)) < len(names):
        raise RecipeError(f"--plugin must name files of different names, got {', '.join(names)}.")
    models: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    for module in found:
        for kind, own, all_ in (("model", "MODELS", models), ("loss", "LOSSES", losses)):
            _refuse_known(kind, getattr(module, own, {}), all_)
            all_ |= getattr(module, own, {})
    return extended(
        techniques=[entry for module in found for entry in getattr(module, "TECHNIQUES", ())],
        tasks=[entry for module in found for entry in getattr(module, "TASKS", ())],
        models=models,
        losses=losses,
        plugins=list(zip(names, digests, strict=True)),
    )


def _executed(path: Path, content: bytes) -> ModuleType:
    if path.suffix != ".py":
        raise RecipeError(f"--plugin {path} must be a Python file, such as mine.py.")
    module = executed(f"--plugin {path}", path, content)
    _check_kinds(path, module)
    return module


def _check_kinds(path: Path, module: ModuleType) -> None:
    kinds = {"TECHNIQUES": Technique, "TASKS": Task}
    if not any(hasattr(module, name) for name in _ADDED):
        raise RecipeError(f"--plugin {path} defines none of {', '.join(_ADDED)}.")
    for name, kind in kinds.items():
        entries = getattr(module, name, ())
        if not isinstance(entries, tuple | list) or not all(isinstance(e, kind) for e in entries):
            raise RecipeError(f"--plugin {path}: {name} must be a tuple of {kind.__name__}s.")
    for name in ("MODELS", "LOSSES"):
        if not isinstance(getattr(module, name, {}), Mapping):
            raise RecipeError(f"--plugin {path}: {name} must be a dictionary.")


def _listed(entries: Any) -> Iterable[Any]:
    return entries if isinstance(entries, Iterable) else (entries,)


def _check_entries(kind: type, what: str, entries: Sequence[Any]) -> None:
    for entry in entries:
        if not isinstance(entry, kind):
            raise RecipeError(f"{what} must be {kind.__name__}s, got {entry!r}.")


def _refuse_known(kind: str, own: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for name in own:
        if name in known:
            raise RecipeError(f"The {kind} {name!r} exists already; choose another name.")
