"""Mistakes in an entry of a catalogue: each is one line that names the entry."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax.catalogue import CATALOGUE, default_config, extended, parse, with_plugins
from cyclical_jax.techniques import moving_average
from cyclical_jax.training import loop, run
from cyclical_jax.training.earlier import Host, prepare, read_recipe
from cyclical_jax.training.fields import Field, RecipeError, knob, or_none, whole
from cyclical_jax.training.files import CONFIG, INPUTS
from cyclical_jax.training.recipe import load_dataset, put
from cyclical_jax.training.technique import (
    LossTerm,
    Memory,
    Part,
    Prepared,
    Technique,
)

KEYS = {"mine.knob": or_none(knob(None, "a knob"))}


def technique(**options):
    return Technique(**{"name": "mine", "keys": KEYS, "switch": "mine.knob"} | options)


def recipe(*techniques, **changes):
    catalogue = extended(techniques=techniques)
    config = default_config(catalogue)
    small = {"subset": "balanced 60", "batch_size": 12, "duration": "1 epoch", "mine.knob": 1.0}
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    for key, value in (small | changes).items():
        put(config, key, value)
    return parse(config, num_devices=2, catalogue=catalogue)


def line_of(function, *arguments, **options):
    with pytest.raises(RecipeError) as caught:
        function(*arguments, **options)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    "options, line",
    [
        (dict(name="judged"), "is a name that the engine has"),
        (dict(model_knobs=("mine.other",)), "has no key mine.other, which its model_knobs"),
        (dict(options={"mine.kind": {"a": ("knob",)}}), "has no key mine.kind"),
        (dict(beside={"proxies": "mine.size"}), "has no key mine.size"),
        (dict(keys=KEYS | {"a.b.c": whole(1, "x", minimum=1)}), "has the key a.b.c, which must be"),
        (dict(keys=KEYS | {"seed.x": whole(1, "x", minimum=1)}), "has the key seed.x"),
        (dict(keys=KEYS | {"mine.n": whole(0, "x", minimum=1)}), "has the default 0 for mine.n"),
        (
            dict(keys=KEYS | {"mine.l": Field([], lambda key, value: [], "list", "x")}),
            "has the default [] for mine.l: unhashable type",
        ),
        (dict(measures=("grad_norm",)), "measures 'grad_norm', which is a name of the log"),
    ],
)
def test_what_is_wrong_with_an_entry_by_itself(options, line):
    assert line in line_of(extended, techniques=[technique(**options)])


def test_a_task_is_judged_by_the_most_or_the_least():
    task = CATALOGUE.tasks[0]
    assert "'max' or 'min'" in line_of(dataclasses.replace, task, judged_by=("accuracy", "Max"))


@pytest.mark.parametrize(
    "options, line",
    [
        (dict(techniques=technique), "techniques must be Techniques, got <function"),
        (dict(tasks=[1]), "tasks must be Tasks, got 1."),
        (dict(losses=technique), "losses must be a dictionary of names"),
        (dict(models={"mine": object}), "must be a linen module class or a Network"),
    ],
)
def test_what_is_no_entry_is_refused(options, line):
    assert line in line_of(extended, **options)


def prepared_by(*prepared):
    many = [
        technique(
            name=f"mine{i}",
            keys={f"mine{i}.knob": knob(1.0, "a knob")},
            switch=None,
            prepare=lambda host, own=own: own,
        )
        for i, own in enumerate(prepared)
    ]
    return line_of(lambda r: prepare(r, load_dataset(r)), recipe(technique(), *many))


def test_what_is_prepared_is_checked():
    ones = np.ones(60, np.float32)
    assert "mine0: prepare must return a Prepared, got None." in prepared_by(None)
    short = Prepared(examples={"own": ones[:59]})
    assert "mine0: 'own' must have 60 entries, got 59." in prepared_by(short)
    twice = [Prepared(examples={"own": ones})] * 2
    assert "mine1: the examples have an entry 'own' already." in prepared_by(*twice)
    assert "the examples have an entry 'label'" in prepared_by(Prepared(examples={"label": ones}))
    start = [Prepared(start=1)] * 2
    assert "mine1: another technique also gives the first variables." in prepared_by(*start)


def test_a_run_is_prepared_alike_whatever_its_seed_and_numbers():
    first = recipe(technique())
    second = dataclasses.replace(first, seed=3)
    dataset = load_dataset(first)
    assert Host(first, dataset).recipe == Host(second, dataset).recipe


def started(part, **options):
    own = technique(part=part, **options)
    r = recipe(own)
    dataset, earlier = prepare(r, load_dataset(r))
    return run.begin(r, dataset, earlier=earlier), r, dataset, earlier


@pytest.mark.parametrize(
    "loss, found",
    [(lambda x, batch, values: jnp.mean(x), r"\[\]"), (lambda x, *_: x[:3, 0], r"\[3\]")],
)
def test_a_loss_has_one_value_an_example(loss, found):
    start, r, dataset, earlier = started(lambda site: Part(terms=(LossTerm(loss),)))
    with pytest.raises(RecipeError, match=rf"one value per example, \[6\], got {found}"):
        loop.train(r, dataset, report=lambda row: None, earlier=earlier, start=start)


def test_measures_are_those_that_are_declared():
    def of(logits, batch, values):
        return logits[:, 0]

    term = LossTerm(of, measures=(("own", of),))
    line = line_of(started, lambda site: Part(terms=(term,)))
    assert line == "mine declares the measures (), but its terms have ['own']."


def test_two_judged_memories_are_an_error():
    memory = Memory(lambda variables: variables, lambda memory, seen: memory, is_judged=True)
    own = technique(part=lambda site: Part(memory=memory))
    r = recipe(own, ema_decay=0.5)
    line = line_of(lambda: run.begin(r, load_dataset(r)))
    assert "moving_average and mine cannot be on at once: each has a memory" in line
    assert moving_average.TECHNIQUE.name == "moving_average"


def test_a_memory_may_begin_with_what_was_prepared():
    def part(site):
        memory = Memory(lambda variables: site.given, lambda memory, seen: memory)
        return Part(memory=memory)

    start, *_ = started(part, prepare=lambda host: Prepared(given=jnp.float32(7)))
    assert start.state.memory["mine"] == 7


def test_a_part_that_fails_is_named():
    def part(site):
        raise KeyError("mine.other")

    with pytest.raises(KeyError) as caught:
        started(part)
    assert "This was raised by the part of mine." in caught.value.__notes__


def test_contradictions_wait_for_values_that_are_right():
    def problems(checked):
        if checked["mine.knob"].easy > 1:
            yield "mine.knob is too large."

    own = technique(problems=problems)
    assert line_of(recipe, own, mine__knob=2.0) == "mine.knob is too large."
    assert line_of(recipe, own, mine__knob="x").startswith("mine.knob must be a number")


def test_a_run_of_a_plugin_is_not_read_without_it_or_by_another(tmp_path):
    plugin, workdir = tmp_path / "mine.py", tmp_path / "run"
    plugin.write_text("LOSSES = {'own': lambda logits, labels: logits[:, 0]}")
    catalogue = with_plugins([plugin])
    workdir.mkdir()
    (workdir / CONFIG).write_text(json.dumps(default_config(catalogue).to_dict()))
    digest = dict(catalogue.plugins)["mine.py"][:16]
    (workdir / INPUTS).write_text(json.dumps({"plugin mine.py": f"content {digest}"}))
    assert read_recipe("--workdir", workdir, catalogue).catalogue is catalogue
    line = line_of(read_recipe, "--workdir", workdir, CATALOGUE)
    assert line.endswith(
        "made with plugin mine.py, which must be given, with --plugin or plugins=."
    )
    plugin.write_text("LOSSES = {'own': lambda logits, labels: logits[:, 1]}")
    line = line_of(read_recipe, "--workdir", workdir, with_plugins([plugin]))
    assert line.endswith("was made with plugin mine.py, which has changed since.")
