"""Datasets of TFDS that have no name here, written as TFDS writes them."""

import functools
import io
import shutil
import urllib.error
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from cyclical_jax import data
from cyclical_jax.data import dataset as datasets
from cyclical_jax.data import prepare, tfds_any
from cyclical_jax.data.batches import in_order

NAMES = ["circle", "square"]


def image_of(split, index, shape):
    rng = np.random.default_rng((len(split), index))
    shape = [length or int(rng.integers(9, 15)) for length in shape]
    return rng.integers(0, 256, shape, np.uint8)


with tfds.core.registered.skip_registration():

    class Shapes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")
        pkg_dir_path = Path(__file__).parent
        SIZES = {"train": 30, "test": 6}
        SHAPE = (6, 5, 1)
        KEYS = ("image", "label")
        HAS_ID = True

        @classmethod
        def features(cls):
            image, label = (
                tfds.features.Image(shape=cls.SHAPE),
                tfds.features.ClassLabel(names=NAMES),
            )
            own_id = {"id": tfds.features.Text()} if cls.HAS_ID else {}
            return dict(zip(cls.KEYS, (image, label), strict=True)) | own_id

        def _info(self):
            features = tfds.features.FeaturesDict(self.features())
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=self.KEYS)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split, n) for split, n in self.SIZES.items()}

        def _generate_examples(self, split, number):
            for index in range(number):
                image = image_of(split, index, self.SHAPE)
                named = {"id": f"{split}_{index}"} if self.HAS_ID else {}
                yield index, {self.KEYS[0]: image, self.KEYS[1]: index % 2, **named}

    class Photos(Shapes):
        SIZES = {"train": 20, "val": 4, "extra": 3}
        SHAPE = (None, None, 3)
        KEYS = ("photo", "kind")
        HAS_ID = False

    class Captions(Shapes):
        SIZES = {"train": 2}

        @classmethod
        def features(cls):
            return {"image": tfds.features.Image(shape=cls.SHAPE), "label": tfds.features.Text()}

        def _generate_examples(self, split, number):
            yield 0, {"image": image_of(split, 0, self.SHAPE), "label": "a"}

    class OnlyTest(Shapes):
        SIZES = {"test": 3}


def build(builder_class, data_dir):
    builder = builder_class(data_dir=data_dir, file_format="array_record")
    prepare._encode_by_pillow(builder)
    builder.download_and_prepare()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    for builder_class in (Shapes, Photos, Captions, OnlyTest):
        build(builder_class, data_dir)
    return data_dir


@pytest.fixture
def data_dir(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "tfds")


@pytest.fixture
def load(data_dir):
    return functools.partial(data.load, data_dir=data_dir)


def images_of(*splits):
    return {image.tobytes() for split in splits for image in split["image"]}


def labels_of(stream):
    select = functools.partial(in_order, len(stream), 1)
    batches = stream.batches(select, start=0, stop=len(stream), seed=0, num_workers=0)
    return [int(batch["label"][0]) for batch in batches]


def test_classes_splits_and_shapes_are_those_of_its_own_info(load, data_dir):
    name = "tfds:shapes"
    dataset = load(name)
    assert [data.num_examples(split) for split in dataset[:3]] == [27, 3, 6]
    assert dataset.class_names == tuple(NAMES) and dataset.train["image"].shape[1:] == (6, 5, 1)
    expected = {
        split: {image_of(split, index, Shapes.SHAPE).tobytes() for index in range(number)}
        for split, number in Shapes.SIZES.items()
    }
    assert images_of(dataset.train, dataset.validation) == expected["train"]
    assert images_of(dataset.test) == expected["test"]
    odd = {image_of("train", index, Shapes.SHAPE).tobytes() for index in range(1, 30, 2)}
    for image, label in zip(dataset.train["image"], dataset.train["label"], strict=True):
        assert label == (image.tobytes() in odd)
    assert [note.split(":")[0] for note in dataset.notes] == ["There is no validation split"]
    assert data.num_train(name, data_dir=data_dir) == 27
    assert data.num_classes(name, data_dir=data_dir) == 2
    data.check(dataset)


@pytest.mark.parametrize("keys", [None, ("photo", "kind"), ({"x": "photo"}, "kind"), ("id", "id")])
def test_features_are_the_supervised_ones_or_the_only_ones_of_their_kind(keys):
    features = Photos.features() | {"id": tfds.features.Text()}
    assert tfds_any._feature(features, tfds.features.Image, keys, 0, "image") == "photo"
    assert tfds_any._feature(features, tfds.features.ClassLabel, keys, 1, "label") == "kind"
    two = features | {"other": tfds.features.ClassLabel(names=NAMES)}
    assert (
        tfds_any._feature(two, tfds.features.ClassLabel, ("photo", "other"), 1, "label") == "other"
    )
    with pytest.raises(ValueError, match="must have images and one class for each, got features "):
        tfds_any._feature(two, tfds.features.ClassLabel, None, 1, "label")


def test_the_second_load_decodes_nothing(load, monkeypatch):
    first = load("tfds:shapes")
    monkeypatch.setattr(tfds_any, "_decode", pytest.fail)
    assert images_of(load("tfds:shapes").train) == images_of(first.train)


def test_images_of_different_sizes_need_one(load):
    with pytest.raises(ValueError, match="'tfds:photos' differ in size: set `image_size`"):
        load("tfds:photos")
    dataset = load("tfds:photos", image_size=9)
    assert [data.num_examples(split) for split in dataset[:3]] == [18, 4, 2]
    assert dataset.train["image"].shape == (18, 9, 9, 3)
    assert dataset.notes[0] == "Splits that are left out: extra."
    assert load("tfds:photos", image_size=7).train["image"].shape == (18, 7, 7, 3)


def test_what_does_not_fit_is_streamed_in_the_same_splits(load, monkeypatch):
    resident = load("tfds:photos", image_size=9)
    monkeypatch.setattr(datasets, "RESIDENT_BYTES", 1000)
    streamed = load("tfds:photos", image_size=9)
    for one, other in zip(streamed[:3], resident[:3], strict=True):
        assert labels_of(one) == other["label"].tolist()
    assert [split.augmented for split in streamed[:3]] == [True, False, False]
    both = load("tfds:photos", image_size=9, train_on="train+validation")
    assert labels_of(both.train) == labels_of(streamed.train) + labels_of(streamed.validation)
    assert len(both.validation) == 0
    some = load("tfds:photos", image_size=9, subset="balanced 6")
    assert sorted(labels_of(some.train)) == [0, 0, 0, 1, 1, 1]
    data.check(streamed)


def test_ids_are_the_names_of_examples(load, tmp_path):
    whole, file = load("tfds:shapes"), tmp_path / "some.txt"
    images = [image_of("train", index, Shapes.SHAPE).tobytes() for index in range(30)]
    trained_on = images_of(whole.train)
    there = next(index for index, image in enumerate(images) if image in trained_on)
    held_out = next(index for index, image in enumerate(images) if image not in trained_on)
    file.write_text(f"train_{there} {there % 2}\n")
    assert images_of(load("tfds:shapes", subset=str(file)).train) == {images[there]}
    file.write_text(f"train_{held_out}\n")
    with pytest.raises(ValueError, match=f"'train_{held_out}' is in the validation split"):
        load("tfds:shapes", subset=str(file))
    both = load("tfds:shapes", subset=str(file), train_on="train+validation")
    assert images_of(both.train) == {images[held_out]}
    with pytest.raises(ValueError, match="lists file names, but this dataset has none"):
        load("tfds:photos", image_size=9, subset=str(file))


def test_a_version_may_be_named_and_the_newest_is_taken(load, data_dir):
    older = data_dir / "shapes" / "1.2.0"
    shutil.copytree(older, data_dir / "shapes" / "1.10.0")
    assert tfds_any.directory_of("shapes", data_dir).name == "1.10.0"
    assert tfds_any.directory_of("shapes:1.2.0", data_dir) == older
    (data_dir / "shapes" / "incomplete.X_9.0.0").mkdir()
    assert tfds_any.directory_of("shapes", data_dir).name == "1.10.0"


def test_a_config_may_be_named(data_dir):
    (data_dir / "mine").mkdir()
    shutil.move(data_dir / "shapes", data_dir / "mine" / "round")
    for place in ("mine/round", "mine/round:1.2.0", "mine"):  # the only one need not be named
        assert tfds_any.directory_of(place, data_dir) == data_dir / "mine" / "round" / "1.2.0"


@pytest.mark.parametrize("place", ["nowhere", "shapes:3.0.0", "shapes/other"])
def test_one_that_is_not_there_is_a_line_with_the_command(load, data_dir, place):
    with pytest.raises(data.DatasetNotFoundError) as error:
        load(f"tfds:{place}")
    command = f"python -m experiments.prepare_data --dataset=tfds:{place} --data_dir={data_dir}"
    start = f"dataset 'tfds:{place}' is not prepared: there is no dataset_info.json in {data_dir}/"
    assert str(error.value).startswith(start) and str(error.value).endswith(f"To get it: {command}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, line",
    [
        (
            "tfds:../../etc",
            "must be tfds:NAME, tfds:NAME:VERSION or tfds:NAME/CONFIG, got 'tf",
        ),
        ("tfds:/etc", "must be tfds:NAME"),
        ("tfds:a/b/c", "must be tfds:NAME"),
        ("tfds:shapes:../1.2.0", "must be tfds:NAME"),
        ("tfds:captions", "it must have images and one class for each, got features image, label."),
        ("tfds:only_test", "it must have a train split, got test."),
    ],
)
def test_what_cannot_be_learned_is_a_line(load, name, line):
    with pytest.raises(ValueError) as error:
        load(name)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_damage_is_a_line(load, data_dir):
    file = data_dir / "shapes" / "1.2.0" / "shapes-train.array_record-00000-of-00001"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(
        ValueError, match="^`dataset` 'tfds:shapes': .* has 0 examples, not 30"
    ) as error:
        load("tfds:shapes")
    assert "\n" not in str(error.value)
    file.unlink()
    info = file.parent / "dataset_info.json"
    info.write_bytes(info.read_bytes() + b"\n")  # it is asked anew
    with pytest.raises(ValueError, match="cannot be used: .*array_record-00000.* is missing"):
        load("tfds:shapes")
    info.write_text("{")
    with pytest.raises(ValueError, match="^`dataset` 'tfds:shapes': .* missing or damaged"):
        load("tfds:shapes")


def test_another_format_is_a_line_for_prepare_too(load, data_dir):
    info = data_dir / "shapes" / "1.2.0" / "dataset_info.json"
    info.write_bytes(info.read_bytes().replace(b"array_record", b"tfrecord"))
    for call in (load, functools.partial(prepare.prepare, data_dir=data_dir)):
        with pytest.raises(
            ValueError, match="its format is tfrecord.* Move it away and prepare it"
        ):
            call("tfds:shapes")


def test_another_preparation_is_another_identity(data_dir):
    before = data.identity("tfds:shapes", data_dir=data_dir)
    assert data.identity("tfds:shapes", data_dir=data_dir) == before
    assert data.identity("tfds:photos", data_dir=data_dir) != before


# ---- preparing one


@pytest.fixture
def known_to_tfds(monkeypatch):
    real = tfds.builder

    def builder(place, **options):
        return Shapes(**options) if place == "shapes" else real(place, **options)

    monkeypatch.setattr(tfds, "list_builders", lambda **_: ["shapes", "mnist"])
    monkeypatch.setattr(tfds, "builder", builder)


def test_prepare_builds_any_dataset_of_tfds(tmp_path, known_to_tfds, capsys):
    prepare.prepare("tfds:shapes", data_dir=tmp_path)
    dataset = data.load("tfds:shapes", data_dir=tmp_path)
    assert data.num_examples(dataset.test) == 6
    capsys.readouterr()
    builder = prepare.prepare("tfds:shapes", data_dir=tmp_path)
    assert capsys.readouterr().out == "tfds:shapes is already prepared.\n"
    assert builder.info.splits["train"].num_examples == 30


def test_a_name_that_tfds_does_not_know_is_a_line(tmp_path, known_to_tfds):
    line = "TFDS has no dataset 'shape'. Did you mean 'tfds:shapes'?"
    with pytest.raises(ValueError) as error:
        prepare.prepare("tfds:shape", data_dir=tmp_path)
    assert str(error.value) == line


def test_a_builder_that_fails_is_a_line(tmp_path, known_to_tfds, monkeypatch):
    def fail(*args):
        raise ModuleNotFoundError("one\nmore lines\nNo module named 'tensorflow'")

    monkeypatch.setattr(Shapes, "_generate_examples", fail)
    with pytest.raises(ValueError) as error:
        prepare.prepare("tfds:shapes", data_dir=tmp_path)
    assert str(error.value) == (
        "tfds:shapes was not built: ModuleNotFoundError: No module named 'tensorflow'. Its builder "
        "needs TensorFlow, and only it does."
    )


def test_a_host_that_does_not_answer_is_a_line_at_once(tmp_path, known_to_tfds, monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(Shapes, "url_infos", {"https://example.invalid/a.zip": None})
    with pytest.raises(ValueError) as error:
        prepare.prepare("tfds:shapes", data_dir=tmp_path)
    assert str(error.value) == (
        "tfds:shapes was not built: OSError: https://example.invalid/a.zip cannot be reached "
        "(<urlopen error no route>)."
    )
    answer = urllib.error.HTTPError("", 405, "Method Not Allowed", {}, None)
    monkeypatch.setattr(prepare, "_why_unreachable", lambda url: str(answer))
    prepare.prepare("tfds:shapes", data_dir=tmp_path)


def test_stock_tfds_reads_what_was_encoded_without_tensorflow(data_dir):
    builder = tfds.builder_from_directory(data_dir / "shapes" / "1.2.0")
    decoders = {"image": tfds.decode.SkipDecoding()}
    examples = list(builder.as_data_source("test", decoders=decoders))
    found = {np.asarray(PIL.Image.open(io.BytesIO(e["image"]))).tobytes() for e in examples}
    assert found == {image_of("test", index, Shapes.SHAPE).tobytes() for index in range(6)}


def test_a_dataset_in_the_place_of_another_is_read_anew(load, data_dir, tmp_path, monkeypatch):
    load("tfds:shapes")
    plain = image_of
    monkeypatch.setitem(globals(), "image_of", lambda *example: plain(*example) // 2)
    build(Shapes, tmp_path / "other")
    shutil.copytree(tmp_path / "other", data_dir, dirs_exist_ok=True)
    dataset = load("tfds:shapes")
    expected = {image_of("test", index, Shapes.SHAPE).tobytes() for index in range(6)}
    assert images_of(dataset.test) == expected
