"""Results that are damaged, or of another shape, are one line or a page, never a traceback."""

import copy
import json
import random

import pytest

from cyclical_jax.training import files
from cyclical_jax.training.files import WorkdirError
from experiments import front_page, presentation, records, report

NESTED = "nested"  # stands for lists in lists
DEEP = {depth: "[" * depth + "]" * depth for depth in (200, 100_000)}
UNREADABLE = ["\ud800", 10**400, NESTED]  # by the parser, which knows no places
OTHERS = [None, 7, -1.5, "<b>x</b>", [], [3], {}, {"x": 1}, *UNREADABLE]


def small_record():
    """Two arms of a real table, the second of them with a control: a few seeds, rows and trials."""
    record = json.loads((front_page.RESULTS / "weight_decay.json").read_text())
    (name, dataset), *_ = record["datasets"].items()
    record["datasets"] = {name: dataset}
    dataset["arms"] = {name: _cut(arm) for name, arm in list(dataset["arms"].items())[:2]}
    dataset |= {"judged_by": {"name": "accuracy", "best": "max"}, "percent": ["accuracy"]}
    return record


def _cut(arm):
    arm["tuning"]["trials"], arm["tuning"]["chosen"] = arm["tuning"]["trials"][:1], 0
    arm["knobs"] = {
        name: arm["knobs"][name] for name in ("weight_decay", "max_norm") if name in arm["knobs"]
    }
    names = "step", "epoch", "val_loss", "val_accuracy"
    arm["curves"] = {name: arm["curves"][name] for name in names}
    return _first(arm, 2)


def _first(content, number):
    """Returns JSON whose lists have at most `number` entries."""
    if isinstance(content, dict):
        return {key: _first(one, number) for key, one in content.items()}
    return (
        [_first(one, number) for one in content[:number]] if isinstance(content, list) else content
    )


def places(content, place=()):
    """Yields the keys and numbers that lead to each node."""
    yield place
    entries = content.items() if isinstance(content, dict) else ()
    entries = enumerate(content) if isinstance(content, list) else entries
    for key, one in entries:
        yield from places(one, (*place, key))


def changed(content, place, other=None, *, removed=False):
    """Returns the JSON with another node at a place, or without it."""
    if not place:
        return other
    content, at = (copied := copy.deepcopy(content)), copied
    for key in place[:-1]:
        at = at[key]
    if removed:
        del at[place[-1]]
    else:
        at[place[-1]] = other
    return content


def changes(content):
    """Yields (what a message must name, text) of each node that is replaced or removed."""
    for place in places(content):
        names = [repr(key) for key in place if isinstance(key, str)] or ["it is", "it has"]
        for other in OTHERS:
            text = json.dumps(changed(content, place, other)).replace(f'"{NESTED}"', DEEP[200])
            yield ["is damaged"] if other in UNREADABLE else names, text
        if place:
            yield names, json.dumps(changed(content, place, removed=True))
    yield ["nested too deep"], DEEP[100_000]


def is_read(read, path, names, text):
    """Returns whether the file is read; what is not must be one line with the file and a name."""
    path.write_text(text)
    try:
        read()
    except WorkdirError as error:
        (line,) = str(error).splitlines()
        assert line.removeprefix("--results: ").startswith(str(path)) and " is damaged: " in line
        assert any(name in line for name in names), (names, line)
        assert len(line) < 500 + len(str(path)) and line.endswith("."), line
        return False
    assert names not in (["is damaged"], ["nested too deep"]), text[:200]
    return True


# ---- a table


def shown(path):
    """Makes all that is made of a record."""
    page, record = report.page(path), records.read(path)
    markdown, datasets = presentation.markdown(record), record["datasets"].values()
    own = page[page.index("</script>\n</head>") :]
    assert (
        page.encode()
        and "<b>" not in own
        and record["table"] in markdown
        and all(presentation.front_table(dataset).startswith("| arm |") for dataset in datasets)
    )


def pages_or_lines(path, number, num_pages):
    """Returns how many of some changed records are pages."""
    generator, found = random.Random(number), []
    each = list(changes(small_record()))
    for names, text in generator.sample(each, min(number, len(each))):
        if is_read(lambda: records.read(path), path, names, text):
            found.append(text)
    for text in generator.sample(found, num_pages):
        path.write_text(text)
        shown(path)
    return len(found)


def test_each_node_of_a_record_that_is_replaced_is_a_line_or_a_page(tmp_path):
    assert 20 < pages_or_lines(tmp_path / "small.json", 150, num_pages=3) < 80


@pytest.mark.slow
def test_all_nodes_of_a_record_that_are_replaced_are_a_line_or_a_page(tmp_path):
    assert pages_or_lines(tmp_path / "small.json", 10_000, num_pages=40) > 200


def test_what_does_not_fit_together_is_told(tmp_path):
    path, of_arm = tmp_path / "small.json", ("datasets", "digits", "arms", "cyclical")
    cases = [
        (
            (*of_arm, "control"),
            "plain",
            "'control' is 'plain', which is not an arm, in arm 'cyclical' of ",
        ),
        ((*of_arm, "seeds"), [1], "'accuracy' has 2 entries, not 1, in arm 'cyclical' of 'digits'"),
        ((*of_arm, "test"), {"loss": [1, 2]}, "'test' has no 'accuracy' in arm 'cyclical' of "),
        ((*of_arm, "knobs", "weight_decay"), [0], "'weight_decay' has 1 entry, not 2, in arm "),
        ((*of_arm, "curves", "val_loss", "std"), [0], "'std of val_loss' has 1 entry, not 2, "),
        (("datasets", "digits", "judged_by", "best"), "most", "'best' of 'digits' is 'most', not "),
    ]
    for place, other, words in cases:
        text = json.dumps(changed(small_record(), place, other))
        assert not is_read(lambda: records.read(path), path, [words], text)


def test_curves_without_a_value_or_without_a_panel_are_a_page(tmp_path):
    path, record = tmp_path / "small.json", small_record()
    for arm in record["datasets"]["digits"]["arms"].values():
        arm["curves"]["val_loss"] = {"mean": [None, None], "std": [0.1, 0.1]}
    files.write(path, record)
    shown(path)
    for arm in record["datasets"]["digits"]["arms"].values():
        arm["curves"], arm["knobs"] = {"step": [1], "epoch": [1]}, {"momentum": [0.5]}
    files.write(path, record)
    shown(path)
    assert "<p>Constant: momentum 0.5.</p>" in report.page(path)


def test_a_flipped_bit_of_a_record_is_told_or_changes_nothing(tmp_path):
    path = tmp_path / "small.json"
    files.write(path, small_record())
    whole, expected = path.read_bytes(), records.read(path)
    generator, told = random.Random(0), 0
    for _ in range(150):
        bit = generator.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert records.read(path) == expected
        except WorkdirError as error:
            assert str(error).startswith(f"{path} is damaged: ")
            told += 1
    assert told > 50


# ---- a workdir

CONFIG = {"seed": 0, "loss": {"temperature": {"easy": 1, "hard": 2}, "name": "focal"}, "ema": None}
RESULT = {"test_accuracy": 0.9, "steps": 7, "seconds": 3.0, "training_seconds": 1.5}
RESULT |= {"test_loss": 0.25, "test_num_examples": 400, "best_val_accuracy": 0.5}
ROW = {"step": 7, "epoch": 0.5, "loss": 2.5, "accuracy": None, "val_accuracy": 0.5, "momentum": 0.9}


FILES = {"config.json": CONFIG, "result.json": RESULT, "metrics.jsonl": ROW}


@pytest.mark.parametrize("name", FILES)
def test_each_node_of_a_file_of_a_run_that_is_replaced_is_a_line_or_a_page(tmp_path, name):
    for file, content in FILES.items():
        files.write(tmp_path / file, content)
    (tmp_path / "metrics.jsonl").write_text(json.dumps(ROW))
    each = [
        is_read(lambda: "".join(report.run_parts({"x": tmp_path})), tmp_path / name, *change)
        for change in random.Random(0).sample(list(changes(FILES[name])), 25)
    ]
    assert True in each and False in each
