"""Arrays of one's own in an .npz file."""

import os
import re

import numpy as np
import pytest

from cyclical_jax import data

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 60)
BYTES = RNG.integers(0, 256, (60, 4, 5, 3), np.uint8)


@pytest.fixture
def saved(tmp_path):
    """Saves arrays, and returns the dataset's name."""

    def save(**arrays):
        np.savez(tmp_path / "mine.npz", **arrays)
        return f"npz:{tmp_path / 'mine.npz'}"

    return save


def problems_of(name):
    with pytest.raises(ValueError) as error:
        data.load(name)
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"`dataset` {name!r}: ") for line in lines)
    return [line.removeprefix(f"`dataset` {name!r}: ") for line in lines]


def rows(dataset, names=("train", "validation", "test")):
    found = [getattr(dataset, name) for name in names]
    return sorted(
        (image.tobytes(), int(label))
        for split in found
        for image, label in zip(split["image"], split["label"], strict=True)
    )


def test_without_prefixes_every_example_is_in_one_split(saved):
    name = saved(image=BYTES, label=LABELS)
    dataset = data.load(name)
    assert [data.num_examples(split) for split in dataset[:3]] == [48, 6, 6]
    whole = data.Dataset({"image": BYTES, "label": LABELS}, *[None] * 2, num_classes=3)
    assert rows(dataset) == rows(whole, ["train"])
    assert dataset.train["image"].dtype == np.uint8 and dataset.train["label"].dtype == np.int32
    assert dataset.num_classes == 3 and dataset.normalisation is None
    assert [note.partition(":")[0] for note in dataset.notes] == [
        "There is no validation split",
        "There is no test split",
    ]
    assert data.num_train(name) == 48 and data.num_train(name, train_on="train+validation") == 54
    data.check(dataset)


def test_prefixes_are_splits(saved):
    parts = {"train": slice(0, 40), "validation": slice(40, 50), "test": slice(50, 60)}
    arrays = {f"{split}_image": BYTES[part] for split, part in parts.items()}
    arrays |= {f"{split}_label": LABELS[part] for split, part in parts.items()}
    dataset = data.load(saved(**arrays))
    for split, part in parts.items():
        np.testing.assert_array_equal(getattr(dataset, split)["image"], BYTES[part])
        np.testing.assert_array_equal(getattr(dataset, split)["label"], LABELS[part])
    assert dataset.notes == ()
    del arrays["validation_image"], arrays["validation_label"]
    without = data.load(saved(**arrays))
    assert [data.num_examples(split) for split in without[:3]] == [36, 4, 10]
    np.testing.assert_array_equal(without.test["image"], BYTES[50:])


def test_train_on_and_subset_choose_of_them(saved):
    name = saved(image=BYTES, label=LABELS)
    whole, both = data.load(name), data.load(name, train_on="train+validation")
    np.testing.assert_array_equal(
        both.train["image"], np.concatenate([whole.train["image"], whole.validation["image"]])
    )
    some = data.load(name, subset="balanced 9", unlabelled=True)
    assert np.bincount(some.train["label"]).tolist() == [3, 3, 3]
    assert len(some.train["unlabelled"]) == 39


@pytest.mark.parametrize("dtype", [np.int64, np.int16, np.uint16, np.uint8])
def test_whole_numbers_of_images_are_bytes(saved, dtype):
    dataset = data.load(saved(image=BYTES.astype(dtype), label=LABELS))
    assert dataset.train["image"].dtype == np.uint8
    assert rows(dataset) == rows(data.load(saved(image=BYTES, label=LABELS)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_images_are_used_as_they_are_and_said_so(saved, dtype):
    image = (RNG.random((60, 4, 5)) * 3 - 1).astype(dtype)
    dataset = data.load(saved(image=image, label=np.arange(60) % 3))
    assert dataset.train["image"].shape[1:] == (4, 5, 1) and dataset.normalisation is None
    together = np.concatenate([split["image"] for split in dataset[:3]])
    assert together.dtype == np.float32
    expected = np.sort(image.astype(np.float32), axis=None)
    np.testing.assert_array_equal(np.sort(together, axis=None), expected)
    assert f"floats, from {image.min():.4g} to {image.max():.4g}, which" in dataset.notes[-1]


def test_tables_are_normalised_by_the_training_split_whatever_is_chosen_of_it(saved):
    features = RNG.normal(size=(60, 4)) * [1, 1e3, 1e-3, 0] + [0, 5, -1e4, 0.1]
    name = saved(image=features, label=LABELS)
    dataset = data.load(name)
    train = dataset.train["image"]
    assert train.dtype == np.float32 and train.shape == (48, 4)
    np.testing.assert_allclose(train[:, :3].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train[:, :3].std(0), 1, rtol=1e-5)
    np.testing.assert_allclose(train[:, 3], 0, atol=1e-15)
    normalised = dataset.normalisation(features)
    together = np.concatenate([split["image"] for split in dataset[:3]])
    np.testing.assert_array_equal(np.sort(normalised, axis=0), np.sort(together, axis=0))
    for options in ({"train_on": "train+validation"}, {"subset": "balanced 9"}):
        other = data.load(name, **options)
        np.testing.assert_array_equal(other.normalisation.mean, dataset.normalisation.mean)
    assert "normalised" in dataset.notes[-1] and data.is_table(name)


def test_words_are_classes_in_the_order_of_the_alphabet(saved):
    words = np.array(["pear", "apple", "fig"])
    for array in (words, words.astype("S")):
        dataset = data.load(saved(image=BYTES, label=array[LABELS]))
        assert dataset.class_names == ("apple", "fig", "pear")
        by_number = data.load(saved(image=BYTES, label=np.array([2, 0, 1])[LABELS]))
        assert rows(dataset) == rows(by_number)


def test_class_names_name_the_numbers(saved):
    names = np.array(["a", "b", "c"])
    assert data.load(saved(image=BYTES, label=LABELS, class_names=names)).class_names == tuple(
        "abc"
    )
    as_bytes = saved(image=BYTES, label=LABELS, class_names=names.astype("S"))
    assert data.load(as_bytes).class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    "class_names, label, line",
    [
        (np.array(["a", "b"]), LABELS, "class_names must be 3 names, got 2."),
        (np.array("a"), LABELS, "class_names must be words [classes], got <U1 of shape []."),
        (np.arange(3), LABELS, "class_names must be words [classes], got int64 of shape [3]."),
        (
            np.array(["a", "b", "c"]),
            np.array(["x", "y", "z"])[LABELS],
            "class_names must be left out where the labels are words.",
        ),
    ],
)
def test_names_that_do_not_fit(saved, class_names, label, line):
    assert problems_of(saved(image=BYTES, label=label, class_names=class_names)) == [line]


def test_probabilities_of_classes_stay(saved):
    soft = RNG.dirichlet(np.ones(3), 60)
    name = saved(image=BYTES, label=soft)
    dataset = data.load(name)
    assert dataset.train["label"].dtype == np.float32 and dataset.num_classes == 3
    assert len(dataset.notes) == 2
    data.check(dataset)
    without = data.load(saved(image=BYTES, label=soft * [1, 0, 1])).notes
    assert without[2:] == ("There is no example to train on of class 1.",)
    name = saved(image=BYTES, label=soft)
    with pytest.raises(ValueError, match="`subset` by class needs one class"):
        data.load(name, subset="balanced 9")


def test_what_is_not_asked_for_is_named(saved):
    dataset = data.load(saved(image=BYTES, label=LABELS * 2, weights=LABELS, ids=LABELS))
    assert dataset.notes[0] == "Other arrays of the file are left out: ids, weights."
    assert dataset.notes[-1] == "There is no example to train on of class 1, 3."
    assert dataset.num_classes == 5


@pytest.mark.parametrize(
    "arrays, line",
    [
        ({}, "it must have image and label, got nothing."),
        ({"x": BYTES}, "it must have image and label, got x."),
        ({"image": BYTES}, "it must have label, got image."),
        (
            {"test_image": BYTES, "test_label": LABELS},
            "it must have train_image and train_label, got test_image, test_label.",
        ),
        (
            {"image": BYTES, "label": LABELS, "test_label": LABELS},
            "it has image and label, and arrays with prefixes too: use one way.",
        ),
        (
            {"image": BYTES, "label": LABELS[:9]},
            "image and label must be equally many, got (60,) and (9,).",
        ),
        ({"image": BYTES, "label": np.int32(1)}, "image and label must be equally many"),
        ({"image": BYTES[0, 0, 0], "label": LABELS[:3]}, "image must be [examples, height, width"),
        ({"image": BYTES[:, :, :, :0], "label": LABELS}, "image must be [examples, height, width"),
        (
            {"image": np.zeros((60, 3, 32, 32), np.uint8), "label": LABELS},
            "image must have its channels last, got shape [60, 3, 32, 32]: np.moveaxis",
        ),
        ({"image": BYTES > 9, "label": LABELS}, "image must be whole numbers or floats, got bool."),
        ({"image": BYTES * 1j, "label": LABELS}, "image must be whole numbers or floats, got comp"),
        (
            {"image": BYTES.astype(int) - 1, "label": LABELS},
            "image of whole numbers must be bytes, 0 to 255, got -1 to 254: give other numbers as",
        ),
        (
            {"image": np.where(BYTES == BYTES[7, 0, 0, 0], np.nan, 1), "label": LABELS},
            "image must be finite, got nan in example",
        ),
        (
            {"image": np.where(np.arange(60)[:, None] == 9, np.inf, 1.0), "label": LABELS},
            "image must be finite, got inf in example 9.",
        ),
        (
            {"image": BYTES, "label": LABELS - 1},
            "train labels must be whole numbers from 0, got -1",
        ),
        (
            {"image": BYTES, "label": LABELS * 1.0},
            "train labels must be whole numbers or words [examples], or floats [examples, "
            "classes], got float64 of shape [60]. Classes are whole numbers: use astype(int).",
        ),
        ({"image": BYTES, "label": LABELS[:, None]}, "train labels must be whole numbers or words"),
        (
            {"image": BYTES, "label": np.eye(3)[LABELS] * 2},
            "train labels must be from 0 to 1, got 0.0 to 2.0.",
        ),
        (
            {"image": BYTES, "label": np.eye(3)[LABELS] * np.nan},
            "train labels must be from 0 to 1, got nan to nan.",
        ),
        (
            {"image": BYTES, "label": LABELS * 1000},
            "labels reach 2000 for 60 examples: number the classes from 0, without gaps.",
        ),
        ({"image": BYTES, "label": LABELS * 0}, "there must be at least 2 classes, got 1."),
        (
            {"image": BYTES[:9], "label": LABELS[:9]},
            "9 examples to train on are too few to cut validation and test from.",
        ),
        ({"image": BYTES[:0], "label": LABELS[:0]}, "there are no train labels."),
        (
            {
                **{"train_image": BYTES, "train_label": LABELS},
                **{"test_image": BYTES[:, 1:], "test_label": LABELS},
            },
            "the examples of all splits must have one shape, got train_image [4, 5, 3], test_image",
        ),
        (
            {
                **{"train_image": BYTES, "train_label": LABELS},
                **{"test_image": BYTES, "test_label": LABELS.astype(str)},
            },
            "labels of all splits must be of one type, got train int64, test <U21.",
        ),
        (
            {
                **{"train_image": BYTES, "train_label": np.eye(3)[LABELS]},
                **{"test_image": BYTES, "test_label": np.eye(4)[LABELS]},
            },
            "labels of all splits must have as many classes, got [3, 4].",
        ),
    ],
)
def test_what_cannot_be_learned_is_a_line(saved, arrays, line):
    (actual,) = problems_of(saved(**arrays))
    assert actual.startswith(line)


def test_all_problems_are_told_at_once(saved):
    lines = problems_of(saved(train_image=BYTES > 3, train_label=LABELS[:9], test_image=BYTES))
    assert lines == ["it must have test_label, got test_image, train_image, train_label."]
    lines = problems_of(saved(image=BYTES > 3, label=LABELS[:9]))
    assert len(lines) == 2


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize("key", ["image", "label", "class_names"])
def test_nothing_is_unpickled(saved, key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = {"image": BYTES, "label": LABELS, "class_names": np.array(["a", "b", "c"])}
    arrays[key] = np.array([Evil()] * 60, object)
    lines = problems_of(saved(**arrays))
    assert f"{key} holds Python objects, which are not unpickled: save plain numbers." in lines
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x93NUMPY", b"a,b\n1,2"])
def test_another_file_is_a_line(tmp_path, content):
    (tmp_path / "mine.npz").write_bytes(content)
    (line,) = problems_of(f"npz:{tmp_path / 'mine.npz'}")
    assert line.startswith("this is no .npz file that can be read: ")


def test_damage_is_a_line(saved, tmp_path):
    name = saved(image=np.tile(BYTES, (1, 8, 4, 1)), label=LABELS)
    file = tmp_path / "mine.npz"
    content = bytearray(file.read_bytes())
    content[100_000] ^= 0xFF  # within the images, whose checksum is then wrong
    file.write_bytes(content)
    (line,) = problems_of(name)
    assert line.startswith("image cannot be read: BadZipFile: Bad CRC-32")


def test_a_header_may_lie_about_its_size(tmp_path, saved):
    import zipfile

    saved(image=BYTES, label=LABELS)
    with zipfile.ZipFile(tmp_path / "mine.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    lie = members["image.npy"].replace(b"(60, 4, 5, 3)", b"(60, 4, 5, 9)")
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
        archive.writestr("image.npy", lie)
        archive.writestr("label.npy", members["label.npy"])
    (line,) = problems_of(f"npz:{tmp_path / 'mine.npz'}")
    told = "image.npy has another size than uint8 of shape [60, 4, 5, 9]."
    assert line == f"this is no .npz file that can be read: {told}"


# ---- where it is


def test_home_is_understood(saved, tmp_path, monkeypatch):
    saved(image=BYTES, label=LABELS)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.num_train("npz:~/mine.npz") == 48


def test_a_path_is_seen_from_the_current_folder(saved, tmp_path, monkeypatch):
    saved(image=BYTES, label=LABELS)
    monkeypatch.chdir(tmp_path)
    assert data.num_train("npz:mine.npz") == 48
    with pytest.raises(data.DatasetNotFoundError) as error:
        data.load("npz:other.npz")
    line = f"dataset 'npz:other.npz': there is no file other.npz in {tmp_path}."
    assert str(error.value) == line


@pytest.mark.parametrize("kind", ["npz", "csv", "folder"])
def test_a_place_that_is_none(kind, tmp_path):
    (tmp_path / "file").touch()
    place = tmp_path / "file" if kind == "folder" else tmp_path
    with pytest.raises(data.DatasetNotFoundError, match=" is a (file|folder).$"):
        data.load(f"{kind}:{place}")
    with pytest.raises(data.DatasetNotFoundError, match=f"there is no .* {tmp_path}/nowhere.$"):
        data.load(f"{kind}:{tmp_path}/nowhere")
    for place in ("gs://x/y", "~nobody-has-this-name/y"):
        with pytest.raises(ValueError, match=f"`dataset` must be a path.*, got '{place}'"):
            data.load(f"{kind}:{place}")


def test_a_file_without_its_word_gets_the_word(saved, tmp_path):
    saved(image=BYTES, label=LABELS)
    for place, name in (("mine.npz", "npz"), ("table.CSV", "csv"), ("", "folder")):
        hint = f"Did you mean '{name}:{tmp_path / place}'?"
        with pytest.raises(ValueError, match=re.escape(hint)):
            data.load(str(tmp_path / place))


def test_a_file_that_is_written_anew_is_read_anew(saved, tmp_path):
    name = saved(image=BYTES, label=LABELS)
    before = data.identity(name)
    assert data.num_train(name) == 48
    os.utime(tmp_path / "mine.npz")
    assert data.identity(name) == before
    assert data.num_train(saved(image=BYTES[:50], label=LABELS[:50])) == 40
    assert data.identity(name) != before
