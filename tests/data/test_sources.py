import functools
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import cifar

from cyclical_jax.data import digits, prepare, sources, subsets, tfds_named
from cyclical_jax.data.batches import in_order
from cyclical_jax.data.dataset import (
    Dataset,
    DatasetNotFoundError,
    image_shape,
    num_examples,
)
from cyclical_jax.data.subsets import SUBSETS, Subset
from tests.helpers import other_user

TRAIN_SIZE, TEST_SIZE = 11, 5


def random_images(num_examples, seed):
    return np.random.default_rng(seed).integers(0, 256, (num_examples, 32, 32, 3), np.uint8)


TRAIN_IMAGES = random_images(TRAIN_SIZE, seed=1)
TEST_IMAGES = random_images(TEST_SIZE, seed=2)


with tfds.core.registered.skip_registration():

    class Cifar10(cifar.Cifar10):
        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples("train", TRAIN_IMAGES),
                "test": self._generate_examples("test", TEST_IMAGES),
            }

        def _generate_examples(self, split, images):
            for index, image in enumerate(images):
                image = PIL.Image.fromarray(image)
                yield index, {"id": f"{split}_{index}", "image": image, "label": index % 10}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    Cifar10(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return data_dir


@pytest.fixture
def data_dir(pristine, tmp_path, monkeypatch):
    """A copy of a tiny "cifar10", and our table to match."""
    tiny = tfds_named.TFDS_DATASETS["cifar10"]._replace(
        num_examples={"train": TRAIN_SIZE, "test": TEST_SIZE}, num_train=8
    )
    monkeypatch.setitem(tfds_named.TFDS_DATASETS, "cifar10", tiny)
    return shutil.copytree(pristine, tmp_path / "tfds")


@pytest.fixture
def directory(data_dir):
    return data_dir / "cifar10" / "3.0.2"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("The network was asked.")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)


def replace_in(file, old, new):
    content = file.read_bytes()
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))


def damage(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 0xFF
    file.write_bytes(content)


def rows(images):
    return {image.tobytes() for image in images}


def test_import_is_light():
    program = (
        "import sys, cyclical_jax.data; "
        "assert not {'sklearn', 'tensorflow_datasets', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("fashion_mnist", [55_000, 5_000, 10_000]),
        ("cifar10", [45_000, 5_000, 10_000]),
        ("cifar100", [45_000, 5_000, 10_000]),
        ("imagenet2012", [1_271_167, 10_000, 50_000]),
    ],
)
def test_splits_are_disjoint_and_leave_nothing_out(name, sizes):
    dataset = tfds_named.TFDS_DATASETS[name]
    template = tfds.core.ShardedFileTemplate(
        data_dir="nowhere", dataset_name=name, filetype_suffix="array_record"
    )
    infos = [
        tfds.core.SplitInfo(
            name=split, shard_lengths=[size - 7, 7], num_bytes=0, filename_template=template
        )
        for split, size in dataset.num_examples.items()
    ]
    tfds_splits = tfds.core.SplitDict(infos)
    taken = {
        split: {
            (piece.filename, index)
            for piece in tfds_splits[tfds_split].file_instructions
            for index in range(piece.skip, piece.skip + piece.take)
        }
        for split, tfds_split in dataset.splits.items()
    }
    assert list(taken) == ["train", "validation", "test"]
    assert [len(examples) for examples in taken.values()] == sizes
    assert len(set.union(*taken.values())) == sum(dataset.num_examples.values())
    assert {file for file, _ in taken["test"]}.isdisjoint(file for file, _ in taken["train"])


@pytest.mark.parametrize("name", tfds_named.TFDS_DATASETS)
def test_the_number_of_classes_is_that_of_tfds(name, tmp_path):
    label = tfds.builder(name, data_dir=tmp_path).info.features["label"]
    assert tfds_named.TFDS_DATASETS[name].num_classes == label.num_classes


class TestDigits:
    def test_shapes(self):
        dataset = sources.load("digits")
        sizes = {"train": 1197, "validation": 200, "test": 400}
        for split, size in sizes.items():
            arrays = getattr(dataset, split)
            assert arrays["image"].shape == (size, 8, 8, 1) and arrays["image"].dtype == np.uint8
            assert arrays["label"].shape == (size,) and arrays["label"].dtype == np.int32
        assert dataset.num_classes == 10

    def test_every_example_is_in_one_split_and_scaled_to_the_full_range(self):
        raw = sklearn.datasets.load_digits()
        scale = [round(value * 255 / 16) for value in range(17)]
        expected = sorted(
            (bytes(scale[int(value)] for value in image), int(label))
            for image, label in zip(raw.data, raw.target, strict=True)
        )
        found = sorted(
            (image.tobytes(), int(label))
            for split in sources.load("digits")[:3]
            for image, label in zip(split["image"], split["label"], strict=True)
        )
        assert scale[0] == 0 and scale[16] == 255
        assert found == expected

    def test_they_are_the_same_where_only_scikit_learn_knows_its_file(self, monkeypatch):
        expected = sources.load("digits")
        monkeypatch.setattr(digits, "_FILE", "elsewhere.csv.gz")
        for theirs, ours in zip(sources.load("digits")[:3], expected[:3], strict=True):
            for name, array in ours.items():
                np.testing.assert_array_equal(theirs[name], array, strict=True)

    def test_the_order_is_the_same_for_ever(self):
        labels = np.concatenate([split["label"] for split in sources.load("digits")[:3]])
        digest = hashlib.sha256(labels.astype(np.uint8).tobytes()).hexdigest()
        assert digest[:16] == "0f9ffd7948cafb39"

    def test_every_split_has_every_class(self):
        for split in sources.load("digits")[:3]:
            assert np.bincount(split["label"], minlength=10).min() >= 10


class TestLoad:
    def test_holds_every_image_once_with_its_label(self, data_dir):
        dataset = sources.load("cifar10", data_dir=data_dir)
        assert [len(split["label"]) for split in dataset[:3]] == [8, 3, 5]
        assert dataset.train["image"].shape == (8, 32, 32, 3)
        assert dataset.train["image"].dtype == np.uint8
        assert dataset.train["label"].dtype == np.int32
        assert rows(dataset.train["image"]) | rows(dataset.validation["image"]) == rows(
            TRAIN_IMAGES
        )
        assert rows(dataset.test["image"]) == rows(TEST_IMAGES)
        expected = {image.tobytes(): index % 10 for index, image in enumerate(TRAIN_IMAGES)}
        for image, label in zip(dataset.train["image"], dataset.train["label"], strict=True):
            assert label == expected[image.tobytes()]

    def test_second_load_decodes_nothing(self, data_dir, monkeypatch):
        first = sources.load("cifar10", data_dir=data_dir)
        monkeypatch.setattr(tfds_named, "_decode", pytest.fail)
        second = sources.load("cifar10", data_dir=str(data_dir))
        for a, b in zip(first[:3], second[:3], strict=True):
            np.testing.assert_array_equal(a["image"], b["image"])
            np.testing.assert_array_equal(a["label"], b["label"])
            assert a["label"].dtype == b["label"].dtype

    def test_stock_tfds_reads_the_directory_afterwards(self, data_dir):
        dataset = sources.load("cifar10", data_dir=data_dir)
        stock = tfds.data_source("cifar10", split="test", data_dir=data_dir, download=False)
        assert [example["label"] for example in stock] == dataset.test["label"].tolist()

    def test_other_splits_are_decoded_anew(self, data_dir, monkeypatch):
        sources.load("cifar10", data_dir=data_dir)
        tiny = tfds_named.TFDS_DATASETS["cifar10"]._replace(num_train=6)
        monkeypatch.setitem(tfds_named.TFDS_DATASETS, "cifar10", tiny)
        dataset = sources.load("cifar10", data_dir=data_dir)
        assert [len(split["label"]) for split in dataset[:3]] == [6, 5, 5]

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda file: file.write_bytes(b""),
            lambda file: file.write_bytes(b"PK\x03\x04 and no more"),
            lambda file: file.write_bytes(file.read_bytes()[:9_000]),
            lambda file: damage(file, 5_000),
        ],
        ids=["empty", "garbage", "cut", "one wrong byte"],
    )
    def test_a_damaged_copy_is_decoded_anew(self, data_dir, directory, spoil):
        sources.load("cifar10", data_dir=data_dir)
        good = (directory / "decoded.npz").read_bytes()
        spoil(directory / "decoded.npz")
        dataset = sources.load("cifar10", data_dir=data_dir)
        assert rows(dataset.test["image"]) == rows(TEST_IMAGES)
        assert len((directory / "decoded.npz").read_bytes()) == len(good)

    def test_nothing_is_unpickled(self, data_dir, directory):
        sources.load("cifar10", data_dir=data_dir)
        with np.load(directory / "decoded.npz") as file:
            arrays = dict(file)
        arrays["test/label"] = np.array([7, None], object)
        np.savez(directory / "decoded.npz", **arrays)
        assert sources.load("cifar10", data_dir=data_dir).test["label"].dtype == np.int32

    def test_works_where_no_copy_can_be_written(self, data_dir, directory):
        (directory / "decoded.npz").mkdir()  # root may write to a read-only directory, not this
        dataset = sources.load("cifar10", data_dir=data_dir)
        assert rows(dataset.test["image"]) == rows(TEST_IMAGES)
        assert not list(directory.glob("decoded.npz.*"))

    def test_a_full_disk_leaves_no_half_copy(self, data_dir, directory, monkeypatch):
        def fill(file, **arrays):
            file.write(b"half")
            raise OSError("No space left on device")

        monkeypatch.setattr(np, "savez", fill)
        before = set(directory.iterdir())
        dataset = sources.load("cifar10", data_dir=data_dir)
        assert rows(dataset.test["image"]) == rows(TEST_IMAGES)
        assert set(directory.iterdir()) == before

    def test_leaves_only_the_copy(self, data_dir, directory):
        before = set(directory.iterdir())
        sources.load("cifar10", data_dir=data_dir)
        assert set(directory.iterdir()) - before == {directory / "decoded.npz"}


class TestSubset:
    """Subsets of the tiny dataset; tiny ones replace those of the table."""

    @pytest.fixture(autouse=True)
    def tiny_subsets(self, monkeypatch):
        subsets = {"4k": Subset(7, None), "4k_6_2": Subset(10, 1.0), "first_4k": Subset(11, None)}
        for name, subset in subsets.items():
            monkeypatch.setitem(SUBSETS, name, subset)

    def test_is_of_the_train_split_alone(self, data_dir):
        whole = sources.load("cifar10", data_dir=data_dir)
        reduced = sources.load("cifar10", data_dir=data_dir, subset="4k")
        for name in ("image", "label"):
            np.testing.assert_array_equal(reduced.train[name], whole.train[name][:7])
            np.testing.assert_array_equal(reduced.validation[name], whole.validation[name])
            np.testing.assert_array_equal(reduced.test[name], whole.test[name])
        assert reduced.num_classes == 10

    def test_is_of_train_and_validation_together(self, data_dir):
        """The 11 labels are 0 .. 9 and another 0, of which only the first is taken."""
        both = dict(data_dir=data_dir, train_on="train+validation")
        whole = sources.load("cifar10", **both)
        reduced = sources.load("cifar10", **both, subset="4k_6_2")
        second_zero = np.flatnonzero(whole.train["label"] == 0)[1]
        expected = np.delete(np.arange(11), second_zero)
        for name in ("image", "label"):
            np.testing.assert_array_equal(reduced.train[name], whole.train[name][expected])
        assert len(reduced.validation["label"]) == 0 and len(reduced.test["label"]) == TEST_SIZE

    def test_may_be_all(self, data_dir):
        both = dict(data_dir=data_dir, train_on="train+validation")
        whole = sources.load("cifar10", **both)
        reduced = sources.load("cifar10", **both, subset="first_4k")
        np.testing.assert_array_equal(reduced.train["image"], whole.train["image"])

    def test_too_few_are_told_before_they_are_loaded(self, tmp_path, monkeypatch):
        """There is nothing to load in `tmp_path`."""
        line = "`subset` 'first_4k' has 11 examples, but cifar10 has 8 to train on."
        tiny = tfds_named.TFDS_DATASETS["cifar10"]._replace(num_train=8)
        monkeypatch.setitem(tfds_named.TFDS_DATASETS, "cifar10", tiny)
        with pytest.raises(ValueError) as error:
            sources.load("cifar10", data_dir=tmp_path, subset="first_4k")
        assert str(error.value) == line

    def test_a_near_name_is_suggested(self):
        with pytest.raises(ValueError, match="got '4k_62'. Did you mean '4k_6_2'?"):
            sources.load("digits", subset="4k_62")


class TestNumTrain:
    @pytest.mark.parametrize(
        "name, train, both",
        [
            ("digits", 1197, 1397),
            ("fashion_mnist", 55_000, 60_000),
            ("cifar100", 45_000, 50_000),
            ("imagenet2012", 1_271_167, 1_281_167),
        ],
    )
    def test_of_all(self, name, train, both):
        assert sources.num_train(name) == train
        assert sources.num_train(name, train_on="train+validation") == both

    @pytest.mark.parametrize("train_on", sources.TRAIN_ON)
    def test_is_what_is_loaded(self, train_on, data_dir):
        for name, place in (("digits", None), ("cifar10", data_dir)):
            dataset = sources.load(name, data_dir=place, train_on=train_on)
            assert sources.num_train(name, train_on=train_on) == len(dataset.train["label"])

    def test_of_a_subset(self):
        assert sources.num_train("cifar100", subset="4k_5_3") == 4000

    @pytest.mark.parametrize("train_on, available", [("train", 1197), ("train+validation", 1397)])
    def test_a_subset_that_cannot_be_filled_is_one_line(self, train_on, available):
        with pytest.raises(ValueError) as error:
            sources.num_train("digits", train_on=train_on, subset="4k")
        line = f"`subset` '4k' has 4000 examples, but digits has {available} to train on."
        assert str(error.value) == line

    @pytest.mark.parametrize(
        "changes", [{"name": "svhn"}, {"train_on": "test"}, {"subset": "5k"}], ids=str
    )
    def test_what_is_not_there_is_named(self, changes):
        (wrong,) = changes.values()
        with pytest.raises(ValueError, match=f"must be one of .*, got '{wrong}'"):
            sources.num_train(**({"name": "cifar10"} | changes))


class TestDataSource:
    @pytest.mark.parametrize("split", ["train", "validation", "test"])
    def test_reads_what_load_reads(self, data_dir, split):
        source = tfds_named.data_source("cifar10", split, data_dir=data_dir)
        expected = getattr(sources.load("cifar10", data_dir=data_dir), split)
        assert len(source) == len(expected["label"])
        for index, label in enumerate(expected["label"]):
            np.testing.assert_array_equal(source[index]["image"], expected["image"][index])
            assert source[index]["label"] == label

    def test_unknown_split(self, data_dir):
        message = "`split` must be one of 'train', 'validation', 'test', got 'valid'."
        with pytest.raises(ValueError, match=re.escape(message)):
            tfds_named.data_source("cifar10", "valid", data_dir=data_dir)

    def test_digits_are_not_streamed(self):
        with pytest.raises(ValueError, match="'digits' is held in memory: read it by `load`"):
            tfds_named.data_source("digits", "train")


NUM_TRAIN, NUM_VALIDATION, IMAGE_SIZE = 12, 3, 32
CLASSES = ("n01440764", "n01443537", "n15075141")  # the first, the second and the last
LABELS = (0, 1, 999)
PHOTO = PIL.Image.fromarray(sklearn.datasets.load_sample_images().images[0])


def photograph(number):
    buffer = io.BytesIO()
    PHOTO.crop((9 * number, 0, 9 * number + 120, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def as_tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def tiny_imagenet(monkeypatch):
    tiny = tfds_named.TFDS_DATASETS["imagenet2012"]._replace(
        num_examples={"train": NUM_TRAIN, "validation": NUM_VALIDATION}, num_train=10
    )
    monkeypatch.setitem(tfds_named.TFDS_DATASETS, "imagenet2012", tiny)


@pytest.fixture(scope="module")
def pristine_imagenet(tmp_path_factory):
    """Builds a tiny dataset from archives like the official ones: 12 images of three classes."""
    raw_dir, data_dir = (tmp_path_factory.mktemp(name) for name in ("raw", "imagenet"))
    numbers = {"n01440764": range(6), "n01443537": range(6, 9), "n15075141": range(9, 12)}
    folders = {
        f"{name}.tar": as_tar({f"{name}_{n}.JPEG": photograph(n) for n in numbers[name]})
        for name in CLASSES
    }
    (raw_dir / "ILSVRC2012_img_train.tar").write_bytes(as_tar(folders))
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3)]
    validation = {name: photograph(20 + place) for place, name in enumerate(names)}
    (raw_dir / "ILSVRC2012_img_val.tar").write_bytes(as_tar(validation))
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny_imagenet(monkeypatch)
        prepare.prepare("imagenet2012", data_dir=data_dir, raw_dir=raw_dir)
    return data_dir


class TestImagenet:
    """Streams, and the subsets of them to train on."""

    @pytest.fixture
    def data_dir(self, pristine_imagenet, tmp_path, monkeypatch):
        tiny_imagenet(monkeypatch)
        return shutil.copytree(pristine_imagenet, tmp_path / "tfds")

    @pytest.fixture
    def load(self, data_dir):
        return functools.partial(
            sources.load, "imagenet2012", data_dir=data_dir, image_size=IMAGE_SIZE
        )

    @pytest.fixture
    def known(self, data_dir):
        """Returns (file name, label) in the order of TFDS's train split, by TFDS's functions."""
        source = tfds.data_source("imagenet2012", split="train", data_dir=data_dir, download=False)
        return [(example["file_name"].decode(), example["label"]) for example in source]

    def labels(self, split, num_workers=0):
        select = functools.partial(in_order, len(split), 4)
        count = -(-len(split) // 4)
        found = split.batches(select, start=0, stop=count, seed=0, num_workers=num_workers)
        return [
            int(label)
            for batch in found
            for label, mask in zip(batch["label"], batch["mask"], strict=True)
            if mask
        ]

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_the_splits_are_slices_of_tfds(self, load, known, num_workers):
        dataset = load()
        expected = [label for _, label in known]
        assert sorted(expected) == [0] * 6 + [1] * 3 + [999] * 3 and expected != sorted(expected)
        assert self.labels(dataset.train, num_workers) == expected[:10]
        assert self.labels(dataset.validation, num_workers) == expected[10:]
        assert len(self.labels(dataset.test, num_workers)) == NUM_VALIDATION
        assert dataset.num_classes == 1000

    def test_images_are_those_of_the_files(self, load, data_dir):
        source = tfds_named.data_source("imagenet2012", "test", data_dir=data_dir)
        select = functools.partial(in_order, 3, 3)
        (batch,) = load().test.batches(select, start=0, stop=1, seed=0, num_workers=0)
        for image, example in zip(batch["image"], source, strict=True):
            side = 90 * 7 / 8
            box = (60 - side / 2, 45 - side / 2, 60 + side / 2, 45 + side / 2)
            expected = PIL.Image.fromarray(example["image"]).resize(
                (IMAGE_SIZE, IMAGE_SIZE), PIL.Image.Resampling.BILINEAR, box=box
            )
            assert np.abs(image.astype(int) - np.asarray(expected).astype(int)).mean() < 6

    def test_only_what_is_trained_on_is_augmented(self, load):
        assert [split.augmented for split in load()[:3]] == [True, False, False]

    def test_size_and_shape_are_known_without_reading(self, load):
        dataset = load(train_on="train+validation")
        assert [num_examples(split) for split in dataset[:3]] == [12, 0, 3]
        assert image_shape(dataset.train) == (IMAGE_SIZE, IMAGE_SIZE, 3)

    def test_a_long_tail_is_of_the_first_of_each_class(self, load, known, monkeypatch):
        monkeypatch.setattr(
            subsets, "long_tailed_quotas", lambda *_: np.array([3, 2] + [0] * 997 + [1])
        )
        firsts, left = [], {0: 3, 1: 2, 999: 1}
        for position, (_, label) in enumerate(known[:10]):
            if left[label]:
                left[label] -= 1
                firsts.append(position)
        assert list(load(subset="long_tailed 3 3").train.positions) == firsts

    def test_positions_need_no_labels(self, load, data_dir, tmp_path):
        file = tmp_path / "some.txt"
        file.write_text("8 2\n5\n")
        assert list(load(subset=str(file)).train.positions) == [2, 5, 8]
        assert not (data_dir / "imagenet2012" / "5.1.0" / "names.npz").exists()

    def test_names_and_labels_are_looked_up(self, load, known, tmp_path, monkeypatch):
        wanted = [known[position] for position in (7, 0, 3)]
        file = tmp_path / "ImageNet_LT_train.txt"
        file.write_text("".join(f"train/{name[:9]}/{name} {label}\n" for name, label in wanted))
        assert list(load(subset=str(file)).train.positions) == [0, 3, 7]
        monkeypatch.setattr(tfds_named, "_read_names", pytest.fail)  # the kept file is used
        assert list(load(subset=str(file)).train.positions) == [0, 3, 7]

    def test_what_is_kept_for_validation_is_not_trained_on(self, load, known, tmp_path):
        file = tmp_path / "some.txt"
        file.write_text(f"{known[0][0]}\n{known[11][0]}\n")
        with pytest.raises(ValueError, match=f"line 2: '{known[11][0]}' is in the validation spl"):
            load(subset=str(file))
        assert list(load(subset=str(file), train_on="train+validation").train.positions) == [0, 11]

    def test_another_label_is_refused(self, load, known, tmp_path):
        name, label = known[4]
        file = tmp_path / "some.txt"
        file.write_text(f"{name} {label + 1}")
        with pytest.raises(
            ValueError, match=f"line 1: '{name}' has label {label}, not {label + 1}"
        ):
            load(subset=str(file))

    @pytest.mark.parametrize("spoil", [b"", b"PK\x03\x04 and no more"])
    def test_damaged_names_are_read_anew(self, load, known, data_dir, tmp_path, spoil):
        (data_dir / "imagenet2012" / "5.1.0" / "names.npz").write_bytes(spoil)
        file = tmp_path / "some.txt"
        file.write_text(known[6][0])
        assert list(load(subset=str(file)).train.positions) == [6]

    def test_a_wrong_byte_is_told_with_the_example(self, load, data_dir):
        file = next((data_dir / "imagenet2012" / "5.1.0").glob("*train.array_record-*"))
        damage(file, file.stat().st_size // 2)
        with pytest.raises(RuntimeError, match=r"example \d+ of train of .*cannot be read"):
            self.labels(load().train)

    @pytest.mark.parametrize("image_size", [0, 4097, 2.5, "224"])
    def test_a_size_that_cannot_be(self, image_size):
        with pytest.raises(ValueError, match=f"`image_size` must be .*{image_size}"):
            sources.load("imagenet2012", image_size=image_size)

    def test_a_size_where_images_have_one(self):
        with pytest.raises(ValueError, match="must be None for 'cifar10', .* got 224"):
            sources.load("cifar10", image_size=224)


@pytest.mark.parametrize(
    "name, subset, line",
    [
        ("imagenet2012", "4k", "unlabelled images are kept in memory, but 'imagenet2012' is not."),
        ("digits", None, "unlabelled images are those that `subset` leaves out, got None."),
        (
            "digits",
            "balanced 1197",
            "there are no unlabelled images: `subset` 'balanced 1197' leaves none out.",
        ),
    ],
)
def test_unlabelled_images_are_those_that_a_subset_leaves_out(name, subset, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        sources.check_unlabelled(name, "train", subset)


class TestIndexFiles:
    """Index files for a dataset in memory."""

    def test_positions(self, data_dir, tmp_path):
        whole = sources.load("cifar10", data_dir=data_dir)
        (tmp_path / "some.csv").write_text("6,1,3")
        some = sources.load("cifar10", data_dir=data_dir, subset=str(tmp_path / "some.csv"))
        np.testing.assert_array_equal(some.train["image"], whole.train["image"][[1, 3, 6]])
        np.testing.assert_array_equal(some.test["image"], whole.test["image"])

    def test_names_are_the_ids_of_cifar(self, data_dir, tmp_path):
        source = tfds_named.data_source("cifar10", "train", data_dir=data_dir)
        wanted = [source[position] for position in (5, 2)]
        lines = [f"{example['id'].decode()} {example['label']}" for example in wanted]
        (tmp_path / "some.txt").write_text("\n".join(lines))
        some = sources.load("cifar10", data_dir=data_dir, subset=str(tmp_path / "some.txt"))
        for image, example in zip(some.train["image"], wanted[::-1], strict=True):
            np.testing.assert_array_equal(image, example["image"])

    @pytest.mark.parametrize("name", ["digits", "fashion_mnist"])
    def test_others_have_no_names(self, name, tmp_path, monkeypatch):
        empty = Dataset(*[{"image": np.zeros((9, 1)), "label": np.zeros(9)}] * 3, 10)
        monkeypatch.setattr(tfds_named, "_load", lambda *_: empty)
        (tmp_path / "some.txt").write_text("a.png")
        with pytest.raises(ValueError, match="lists file names, but this dataset has none"):
            sources.load(name, subset=str(tmp_path / "some.txt"))

    def test_a_position_outside_is_told_before_anything_is_loaded(self, tmp_path):
        (tmp_path / "some.txt").write_text("7\n45000\n")
        with pytest.raises(ValueError, match="line 2: 45000 is not a position of the 45000 examp"):
            sources.load("cifar10", data_dir=tmp_path, subset=str(tmp_path / "some.txt"))


class TestNames:
    @pytest.mark.parametrize(
        "read", [sources.load, lambda name: tfds_named.data_source(name, "train")]
    )
    def test_a_near_name_is_suggested(self, read):
        message = "got 'fashon_mnist'. Did you mean 'fashion_mnist'?"
        with pytest.raises(ValueError, match=re.escape(message)):
            read("fashon_mnist")

    def test_a_far_name_is_not(self):
        message = (
            "`dataset` must be one of "
            "'digits', 'fashion_mnist', 'cifar10', 'cifar100', 'imagenet2012', "
            "or npz:FILE, csv:FILE, folder:DIR, tfds:NAME, got 'svhn'."
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            sources.load("svhn")

    def test_imagenet_does_not_fit(self):
        with pytest.raises(
            ValueError, match="'imagenet2012' differ in size: set `image_size`, e.g. to 224"
        ):
            sources.load("imagenet2012")

    @pytest.mark.parametrize(
        "name, module", [("digits", "sklearn"), ("cifar10", "tensorflow_datasets")]
    )
    def test_a_missing_package_is_named(self, name, module, monkeypatch):
        for loaded in [module, *sys.modules]:
            if loaded.partition(".")[0] == module:
                monkeypatch.setitem(sys.modules, loaded, None)
        with pytest.raises(ImportError, match=rf'{module}.*pip install "\.\[train\]"'):
            sources.load(name)


@pytest.mark.parametrize(
    "name", ["digits", "npz:a.npz", "csv:a.csv", "folder:a", "npz:" + "a" * 299]
)
def test_a_folder_of_datasets_that_is_not_used_is_one_line(name, tmp_path):
    shown = name if len(name) < 200 else f"{name[:197]}..."
    line = f"`data_dir` must be None for '{shown}', which is not a dataset of TFDS, got '/there'."
    with pytest.raises(ValueError, match=re.escape(line)):
        sources.load(name, data_dir="/there")


@pytest.mark.parametrize("word", ["npz", "csv", "folder", "tfds"])
def test_a_name_that_can_be_no_path_is_one_line(word, tmp_path):
    for place in ("a" * 5000, "a\0b", "x/" * 3000):
        with pytest.raises((ValueError, DatasetNotFoundError)) as error:
            sources.load(f"{word}:{place}")
        assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_long_name_of_no_dataset_is_shown_in_part():
    with pytest.raises(ValueError, match="got 'x{197}...'") as error:
        sources.load("x" * 10**6)
    assert len(str(error.value)) < 400


CLOSED = {
    "npz:shut/a.npz": "cannot be read: Permission denied.",
    "csv:shut/a.csv": "cannot be read: Permission denied.",
    "folder:shut/a": "cannot be read: Permission denied.",
    "folder:shut": "cannot be read: Permission denied.",
    "npz:a.npz": "that can be read: Permission denied.",
    "csv:a.csv": "cannot be read: [Errno 13] Permission denied: 'a.csv'.",
    "folder:photos": "cannot be read: Permission denied.",
}


@pytest.mark.parametrize("name", CLOSED)
def test_what_another_user_may_not_read_is_one_line(name, tmp_path):
    for file in ("a.npz", "a.csv"):
        (tmp_path / file).write_bytes(b"a,b")
        (tmp_path / file).chmod(0)
    for folder in ("photos/ant", "photos/bee", "shut/a"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("photos/ant", "shut"):
        (tmp_path / folder).chmod(0)
    with other_user(tmp_path), pytest.raises((ValueError, DatasetNotFoundError)) as error:
        sources.load(name)
    assert str(error.value).endswith(CLOSED[name]) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["cifar10", "tfds:cifar10", "tfds:cifar10:3.0.2"])
@pytest.mark.parametrize(
    "shut", [".", "cifar10", "cifar10/3.0.2", "cifar10/3.0.2/dataset_info.json"]
)
def test_a_prepared_dataset_that_another_user_may_not_read_is_one_line(name, shut, data_dir):
    data_dir.chmod(0o755)
    (data_dir / shut).chmod(0)
    with other_user(data_dir.parent), pytest.raises((ValueError, DatasetNotFoundError)) as error:
        sources.load(name, data_dir=data_dir.name)
    assert "cannot be read: Permission denied" in str(error.value).splitlines()[0]


def test_a_prepared_dataset_of_another_user_is_read_and_left_as_it_is(data_dir, directory):
    before = set(directory.iterdir())
    data_dir.chmod(0o755)
    directory.chmod(0o555)
    with other_user(data_dir.parent):
        dataset = sources.load("cifar10", data_dir=data_dir.name)
    assert rows(dataset.test["image"]) == rows(TEST_IMAGES)
    assert set(directory.iterdir()) == before


class TestMissing:
    """A missing dataset is an error at once, without a network, with the commands to get it."""

    @pytest.mark.parametrize(
        "name, version, command",
        [
            ("fashion_mnist", "3.0.1", "apt-get install dataset-fashion-mnist && {prepare}"),
            ("cifar10", "3.0.2", "{prepare} (on a machine with a network"),
            ("cifar100", "3.0.2", "with cifar-100-binary.tar.gz in DIR"),
            ("imagenet2012", "5.1.0", "ILSVRC2012_img_val.tar.*&& {prepare} --raw_dir=DIR"),
        ],
    )
    def test_not_prepared(self, name, version, command, tmp_path, no_network):
        started = time.monotonic()
        with pytest.raises(DatasetNotFoundError) as error:
            tfds_named.data_source(name, "train", data_dir=tmp_path)
        assert time.monotonic() - started < 10
        message = str(error.value)
        prepare = f"python -m experiments.prepare_data --dataset={name} --data_dir={tmp_path}"
        assert f"{name} is not prepared: there is no {tmp_path}/{name}/{version}." in message
        assert all(part in message for part in command.format(prepare=prepare).split(".*"))
        assert message.count("\n") == 1
        assert isinstance(error.value, FileNotFoundError)
        assert not list(tmp_path.iterdir())

    def test_the_default_directory_is_tfds_own(self, tmp_path):
        program = "import cyclical_jax.data as d; d.load('cifar10')"
        environment = os.environ | {"TFDS_DATA_DIR": str(tmp_path / "mine")}
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment
        )
        assert f"there is no {tmp_path}/mine/cifar10/3.0.2." in run.stderr
        assert "--dataset=cifar10 (on" in run.stderr

    def test_the_command_can_be_pasted(self, tmp_path):
        with pytest.raises(DatasetNotFoundError) as error:
            sources.load("cifar10", data_dir=tmp_path / "my data")
        assert f"--data_dir='{tmp_path}/my data' (on" in str(error.value)

    def test_home_is_understood(self, data_dir, monkeypatch):
        monkeypatch.setenv("HOME", str(data_dir.parent))
        assert len(sources.load("cifar10", data_dir="~/tfds").test["label"]) == TEST_SIZE


class TestUnusable:
    """Damage is an error; it is never read as a smaller or another dataset."""

    def refuse(self, data_dir, flaw):
        with pytest.raises(DatasetNotFoundError) as error:
            sources.load("cifar10", data_dir=data_dir)
        message = str(error.value)
        assert message.startswith(f"{data_dir}/cifar10/3.0.2 cannot be used: ")
        assert flaw in message
        command = f"python -m experiments.prepare_data --dataset=cifar10 --data_dir={data_dir}"
        assert f"\nMove it away, then: {command}" in message

    def test_another_format(self, data_dir, directory):
        replace_in(directory / "dataset_info.json", b'"array_record"', b'"tfrecord"')
        flaw = "its format is tfrecord, which cannot be read without TensorFlow."
        self.refuse(data_dir, flaw)

    def test_fewer_examples(self, data_dir, directory):
        replace_in(directory / "dataset_info.json", b'"11"', b'"10"')
        self.refuse(data_dir, "it holds {'train': 10, 'test': 5} examples, not {'train': 11")

    def test_no_test_split(self, data_dir, directory):
        replace_in(directory / "dataset_info.json", b'"name": "test"', b'"name": "other"')
        self.refuse(data_dir, "it holds {'train': 11, 'other': 5} examples, not {'train': 11")

    def test_no_info(self, data_dir, directory):
        (directory / "dataset_info.json").unlink()
        self.refuse(data_dir, "its dataset_info.json is missing or damaged.")

    @pytest.mark.parametrize("size", [0, 200])
    def test_half_an_info(self, data_dir, directory, size):
        info = directory / "dataset_info.json"
        info.write_bytes(info.read_bytes()[:size])
        self.refuse(data_dir, "its dataset_info.json is missing or damaged.")

    def test_a_missing_file(self, data_dir, directory):
        (directory / "cifar10-test.array_record-00000-of-00001").unlink()
        self.refuse(data_dir, "cifar10-test.array_record-00000-of-00001 is missing.")

    @pytest.mark.parametrize("split, position", [("train", 15_000), ("test", 4_000)])
    def test_a_wrong_byte(self, data_dir, directory, split, position):
        damage(directory / f"cifar10-{split}.array_record-00000-of-00001", position)
        self.refuse(data_dir, "")
        assert not (directory / "decoded.npz").exists()

    def test_a_file_cut_short(self, data_dir, directory):
        file = directory / "cifar10-train.array_record-00000-of-00001"
        file.write_bytes(file.read_bytes()[:70_000])
        self.refuse(data_dir, "")

    def test_the_file_of_another_split(self, data_dir, directory):
        test, train = (
            directory / f"cifar10-{split}.array_record-00000-of-00001"
            for split in ("test", "train")
        )
        shutil.copy(test, train)
        self.refuse(data_dir, "")

    def test_an_interrupted_build_is_not_there(self, data_dir, directory):
        directory.rename(directory.with_name("incomplete.ABCDEF_3.0.2"))
        with pytest.raises(DatasetNotFoundError, match="cifar10 is not prepared"):
            sources.load("cifar10", data_dir=data_dir)
