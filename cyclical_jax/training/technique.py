"""The types through which techniques and tasks enter a run.

A technique is one file that ends in `TECHNIQUE = Technique(...)`; a task is one that ends in
`TASK = Task(...)`. Both are plain data and functions: keys of the config, what they add to the
compiled program (`Part`), and what they prepare on the host (`Prepared`). The engine knows none of
them by name. Order: techniques that change the inputs act first, then the task, which makes the
main view of the inputs, then all other techniques, each in the order of the catalogue.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cyclical_jax.data import LIMITS, Dataset, has_bytes, image_shape, num_examples
from cyclical_jax.data.dataset import Split
from cyclical_jax.models import Model
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.fields import Field, RecipeError
from cyclical_jax.training.state import TrainState, Variables

MAIN = "main"  # the view of a batch that mask and weight belong to

# What a task, or the data, may offer, and a technique may need.
LABELS = "labels"  # one class an example, or probabilities of them
LOGITS = "logits"  # outputs [..., classes]
CLASS_LOGITS = "class logits"  # logits of one softmax
IMAGES = "images"
IN_MEMORY = "examples in memory"
SPATIAL = "examples with height and width"

# The entries of a batch: "image", "label" and whatever else the data has; "index", the position of
# the example in its dataset; where the batch is padded "mask", 0 for padding and else 1; where
# examples have a weight "weight"; MAIN; and the entries that techniques add. Mask and weight are
# [batch], or have more axes where the losses have: pixels, or the words of a sequence.
Batch = dict[str, Any]
Own = Mapping[str, Any]  # {key: value} of the keys of one entry of the catalogue
Values = Mapping[str, jax.Array]  # {key of a knob: its value at this update}
Schedules = Mapping[str, optax.Schedule]  # {key of a knob: its schedule}
OfExamples = Callable[..., jax.Array]  # (outputs of each view ..., batch, values) -> [examples]


class Place(IntEnum):
    """Places of the optimizer's chain, in their order."""

    CLIP, PRECONDITION, DECAY, MOMENTUM, RATE, THAW = range(6)


class BatchTransform(NamedTuple):
    """A change of the batch before the forward pass.

    Attributes:
      transform: (batch, key, strength) -> batch.
      strength: A number or a schedule.
    """

    transform: Callable[[Batch, jax.Array, jax.Array], Batch]
    strength: optax.ScalarOrSchedule = 1.0


class LossTerm(NamedTuple):
    """A summand of the loss: the mean of its losses over the examples.

    Attributes:
      loss: (outputs of each view ..., batch, values) -> losses [batch].
      weight: A number or a schedule.
      views: Entries of the batch whose outputs the loss takes.
      measures: (name, function like `loss`) of further means, for the log.
      is_instead: Whether its weight is taken from the weight of the task's own term.
    """

    loss: OfExamples
    weight: optax.ScalarOrSchedule = 1.0
    views: tuple[str, ...] = (MAIN,)
    measures: tuple[tuple[str, OfExamples], ...] = ()
    is_instead: bool = False


class Seen(NamedTuple):
    """One micro step, as a memory sees it.

    Attributes:
      old: The state before it.
      new: The state after it.
      batch: The batch, after all transforms.
      outputs: {view: outputs of the model}.
      values: The value of each knob at this update.
      axis_name: The mapped axis of the devices; None outside of one.
    """

    old: TrainState
    new: TrainState
    batch: Batch
    outputs: Mapping[str, Any]
    values: Values
    axis_name: str | None


class Memory(NamedTuple):
    """A tree that is carried from step to step, in `state.memory[<name of the technique>]`.

    It is saved, resumed and spread over devices and populations by the engine.

    Attributes:
      init: Variables at the start -> the tree.
      update: (the tree, what a micro step has `Seen`) -> the tree.
      recall: (the tree, batch) -> batch, before all transforms.
      is_judged: Whether the tree is a `Variables` that is evaluated in place of the state's own.
    """

    init: Callable[[Variables], Any]
    update: Callable[[Any, Seen], Any]
    recall: Callable[[Any, Batch], Batch] = lambda memory, batch: batch
    is_judged: bool = False


class Part(NamedTuple):
    """All that a technique or a task adds to the compiled program, beside its model.

    Attributes:
      transforms: Changes of the batch.
      terms: Summands of the loss.
      chain: Transformations of gradients, each with its place in the optimizer.
      memory: A tree that is carried from step to step.
      reference: The term that takes the place of the task's own in a second gradient, whose norm
        the first one gets.
    """

    transforms: tuple[BatchTransform, ...] = ()
    terms: tuple[LossTerm, ...] = ()
    chain: tuple[tuple[Place, optax.GradientTransformation], ...] = ()
    memory: Memory | None = None
    reference: LossTerm | None = None


class Spec(NamedTuple):
    """The part of a dataset that decides the compiled program.

    Attributes:
      num_train: Number of training examples.
      num_outputs: Number of classes.
      shape: Shape of one example's inputs.
      limits: The least and the greatest input; None for floats of any size.
    """

    num_train: int
    num_outputs: int
    shape: tuple[int, ...]
    limits: tuple[float, float] | None = LIMITS


def spec_of(dataset: Dataset) -> Spec:
    """Returns the spec of a dataset."""
    train = dataset.train
    limits = LIMITS if has_bytes(train) else None
    return Spec(num_examples(train), dataset.num_classes, tuple(image_shape(train)), limits)


class Site(NamedTuple):
    """The place where a part is built: inside the compiled program, where numbers are traced.

    Attributes:
      own: {key: value} of the entry's keys that decide the program.
      spec: The spec of the dataset.
      axis_name: The mapped axis of the devices; None outside of one.
      schedules: {key: schedule} of every knob that is on.
      given: The arrays that the technique has `Prepared`.
      model: The whole `Model`, without a mapped axis.
      example: Inputs of one example, zeros.
    """

    own: Own
    spec: Spec
    axis_name: str | None = None
    schedules: Schedules = {}
    given: Any = None
    model: Any = None
    example: Any = None

    def limits_for(self, key: str, needing: Collection[str]) -> tuple[float, float] | None:
        """Returns the limits of the inputs.

        Raises:
          RecipeError: They are unknown, and the value of `key` has a word in `needing`; a line.
        """
        lacking = [word for word in self.own[key] if self.spec.limits is None and word in needing]
        if lacking:
            raise RecipeError(
                f"{key} has {' and '.join(lacking)}, which needs images of bytes, whose black is "
                "known: use such images, or leave it out."
            )
        return self.spec.limits


class Prepared(NamedTuple):
    """The arrays that a technique prepares on the host, once.

    Attributes:
      examples: Further entries of the training split, [n, ...].
      given: Arrays that are arguments of the program.
      start: First variables; those that are missing are drawn.
    """

    examples: Mapping[str, Any] = {}
    given: Any = None
    start: Variables | None = None


class Restarts(NamedTuple):
    """Says what makes a run restart; the lengths of its cycles then do not depend on its own.

    Attributes:
      choice: The key that decides, of the technique's own.
      value: Its value with which the run restarts.
      ends: (own values, {key: updates} of the own durations) -> iterator of the numbers of updates
        after which a cycle has ended, without end.
    """

    choice: str
    value: str
    ends: Callable[[Own, Mapping[str, int]], Iterator[int]]

    def __str__(self) -> str:
        return f"{self.choice} is {self.value!r}"


def no_problems(checked: Own) -> Iterator[str]:
    """Yields nothing."""
    return iter(())


@dataclass(frozen=True, eq=False)
class Technique:
    """One technique. Two are equal only if they are the same object.

    Attributes:
      name: Name of its file, and of its memory.
      keys: Its keys of a config, in full: {"section.word": Field}.
      part: The function that returns what it adds to the compiled program.
      model: Makes the model, or wraps the model of the entries before it (None if there is none).
        The site has only own values, spec and axis. A model that is given to a run replaces the one
        that the first entry makes.
      model_knobs: Keys of the knobs that `Model.apply` takes, by their last word.
      model_state: Names of what its model adds to the model's state. A run that starts from another
        one does not take them over.
      schedules: (own values, schedules, timetable) -> schedules that replace those of its knobs,
        and further ones, which `columns` name.
      restarts: What makes a run restart.
      columns: {key of a knob, or of a further schedule: its name in the log}. By default a knob has
        the last word of its key.
      summary: (own values, schedules, timetable) -> {name: number} about the whole run, which
        follows from its recipe; `result.json` keeps it.
      switch: The key that is None if the technique is off; of several keys, it is on if one is
        set. Without a switch it is on whenever the task offers what it needs.
      read_with: {key: those of the switches of which one must be set for the key to be read}.
      options: {key of a choice: {value: words of the keys in its section that are then read}}.
      needs: What the task or the data must offer.
      measures: Names of the measures of its loss terms.
      percent: Names of the measures and scores that are fractions and are shown in percent.
      changes_inputs: Whether its transforms change the inputs, and so act before the task's.
      beside: {entry of the training split: key of a batch size}, for examples of another number
        that are drawn in their own order.
      device_groups: Its keys whose value is a number of devices, which must divide the number of
        all devices; None is all. With such a value, another number of devices is another run.
      problems: Yields a line for each contradiction between keys. It gets the values of all keys
        that are right by themselves.
      prepare: Returns what it makes on the host before training.
      of_config: ({key: value} of a config) -> itself, or a technique with further keys from a file
        that a value names. The same content gives the same technique.
      files: (name, digest of the content) of each such file.
      about: What it does, in one sentence, for the list of all keys.
    """

    name: str
    keys: Mapping[str, Field]
    part: Callable[[Site], Part] = lambda site: Part()
    model: Callable[[Site, Model | None], Model] | None = None
    model_knobs: tuple[str, ...] = ()
    model_state: tuple[str, ...] = ()
    schedules: Callable[[Own, Schedules, Timetable], Schedules] = lambda own, schedules, table: {}
    restarts: Restarts | None = None
    columns: Mapping[str, str] | None = None
    summary: Callable[[Own, Schedules, Timetable], Mapping[str, float]] | None = None
    switch: str | tuple[str, ...] | None = None
    read_with: Mapping[str, tuple[str, ...]] | None = None
    options: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None
    needs: frozenset[str] = frozenset()
    measures: tuple[str, ...] = ()
    percent: tuple[str, ...] = ()
    changes_inputs: bool = False
    beside: Mapping[str, str] | None = None
    device_groups: tuple[str, ...] = ()
    problems: Callable[[Own], Iterator[str]] = no_problems
    prepare: Callable[[Any], Prepared] | None = None  # takes an `earlier.Host`
    of_config: "Callable[[Own], Technique] | None" = None
    files: tuple[tuple[str, str], ...] = ()
    about: str = ""

    def __repr__(self) -> str:
        return self.name

    @property
    def switches(self) -> tuple[str, ...]:
        """The keys of which one turns it on; none where it has no switch."""
        return (self.switch,) if isinstance(self.switch, str) else self.switch or ()


@dataclass(frozen=True, eq=False, repr=False)
class Task(Technique):
    """One task: the batch, the model's inputs and outputs, the loss, and how a model is judged.

    Its first loss term is its own: other terms may take a part of that term's weight.

    Attributes:
      offers: What techniques may rely on.
      as_batch: Examples of the dataset -> the batch that the transforms see.
      view: Batch -> the model's inputs, after all changes of the inputs.
      example: (own values, spec) -> inputs of one example, [1, ...], which initialise the model.
      sums: (site, model, variables, batch with a mask) -> sums over the examples that are real.
      scores: The sums of all batches -> {"loss": ..., ...}, on the host.
      probabilities: The model's outputs -> the probability of each class [batch, classes]; None
        if the outputs are not about classes.
      averaged: Outputs of several models [models, batch, ...] -> outputs whose `probabilities` are
        the mean of theirs; None if there is no such function.
      judged_by: The score that decides which model is best, and whether its "max" or "min" is best.
      misfits: (name of a split, the split, number of classes) -> a line for each reason why the
        task cannot learn from it. The split is already as `Dataset` says.
      outputs: (own values, spec) -> shape of the model's outputs for one example, which are floats;
        None allows any.
    """

    offers: frozenset[str] = frozenset()
    as_batch: Callable[[Batch], Batch] = lambda examples: examples
    view: Callable[[Batch], Any] = lambda batch: batch["image"]
    example: Callable[[Own, Spec], Any] = lambda own, spec: jnp.zeros((1, *spec.shape))
    sums: Callable[[Site, Model, Variables, Batch], Any] = lambda *arguments: {}
    scores: Callable[[Sequence[Any]], dict[str, float]] = lambda sums: {}
    probabilities: Callable[[Any], jax.Array] | None = None
    averaged: Callable[[Any], Any] | None = None
    judged_by: tuple[str, str] = ("loss", "min")
    misfits: Callable[[str, Split, int], Iterator[str]] = lambda name, split, classes: iter(())
    outputs: Callable[[Own, Spec], tuple[int, ...] | None] = lambda own, spec: None

    def __post_init__(self):
        if self.judged_by[1] not in ("max", "min"):
            raise RecipeError(
                f"{self.name}: judged_by must say 'max' or 'min', got {self.judged_by}."
            )

    def worth(self, scores: Mapping[str, float]) -> float:
        """Returns the score by which the task judges, as a number of which more is better."""
        name, best = self.judged_by
        return worth(scores[name], best)


def worth(value: float, best: str) -> float:
    """Returns a score as a number of which more is better; `best` is "max" or "min"."""
    return value if best == "max" else -value


def shown(value: float, percent: bool) -> str:
    """Returns a score as text."""
    if percent:
        return f"{value:.2%}"
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3g}"


def columns(keys: Sequence[str], taken: Sequence[str] = ()) -> dict[str, str]:
    """Returns {key of a knob: its name in the log}, the last word of the key.

    The name is the whole key if another key ends in the same word, or if the word is in `taken`.
    """
    words = [key.rpartition(".")[2] for key in keys]
    return {
        key: key if words.count(word) > 1 or word in taken else word
        for key, word in zip(keys, words, strict=True)
    }
