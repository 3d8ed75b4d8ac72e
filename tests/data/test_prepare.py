import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import re
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.image_classification import cifar, mnist

from cyclical_jax.data import prepare, sources, tfds_named
from cyclical_jax.data.dataset import DatasetNotFoundError
from tests import commands

FASHION_FILES = list(prepare.GZIP_TIMES)
URLOPEN, REQUESTS_GET = urllib.request.urlopen, requests.Session.get
RECORDED = "tensorflow_datasets.core.download.checksums.get_all_url_infos"


def random_bytes(*shape, seed, high=256):
    return np.random.default_rng(seed).integers(0, high, shape, np.uint8)


def idx(array):
    """The idx format by hand."""
    content = bytes([0, 0, 8, array.ndim])
    for length in array.shape:
        content += length.to_bytes(4, "big")
    return content + array.tobytes()


def debian_gzip(content):
    """Compresses as `gzip --no-name` does: without flags and without a name."""
    return gzip.compress(content, mtime=1591544557)


def tar(files, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def encoded(image, image_format):
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    return buffer.getvalue()


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "tfds"


@pytest.fixture
def raw_dir(tmp_path):
    directory = tmp_path / "raw"
    directory.mkdir()
    return directory


@pytest.fixture
def expect(monkeypatch):
    """Makes our table and TFDS's checksums those of a small dataset."""

    def expect(name, num_examples, official=()):
        small = tfds_named.TFDS_DATASETS[name]._replace(num_examples=num_examples)
        monkeypatch.setitem(tfds_named.TFDS_DATASETS, name, small)
        infos = {
            url: checksums.UrlInfo(
                size=len(content),
                checksum=hashlib.sha256(content).hexdigest(),
                filename=url.rsplit("/", 1)[-1],
            )
            for url, content in dict(official).items()
        }
        monkeypatch.setattr(RECORDED, lambda: infos)

    return expect


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fails a test that uses the network, unless it replaces these functions."""

    def refuse(*args, **kwargs):
        raise AssertionError("The network was asked.")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("requests.Session.get", refuse)


@contextlib.contextmanager
def serve(directory):
    """Serves the files of a directory on this machine."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=directory)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def read(name, split, data_dir):
    """Reads a split by TFDS's own functions."""
    return list(tfds.data_source(name, split=split, data_dir=data_dir, download=False))


class TestReadIdx:
    @pytest.mark.parametrize("shape", [(7,), (5, 3, 2)])
    def test_follows_the_format(self, tmp_path, shape):
        array = random_bytes(*shape, seed=3)
        (tmp_path / "file.gz").write_bytes(gzip.compress(idx(array)))
        np.testing.assert_array_equal(prepare.read_idx(tmp_path / "file.gz"), array)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0",  # floats
            idx(np.zeros((5, 3), np.uint8))[:-1],
            idx(np.zeros((5, 3), np.uint8)) + b"\0",
        ],
        ids=["empty", "not bytes", "short", "long"],
    )
    def test_refuses_anything_else(self, tmp_path, content):
        (tmp_path / "file.gz").write_bytes(gzip.compress(content))
        with pytest.raises(ValueError):
            prepare.read_idx(tmp_path / "file.gz")


def test_no_path_in_an_archive_leads_anywhere(tmp_path):
    """The members are read as they pass, without those that would leave, and none is written."""
    outside = tmp_path / "outside"
    names = ["../evil", str(outside), "a/../../evil", "in/side"]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.tar").write_bytes(tar({name: name.encode() for name in names}))
    with contextlib.chdir(folder):
        found = {name: file.read() for name, file in prepare._stream_tar(folder / "a.tar")}
    assert found == {"in/side": b"in/side"}
    assert {path.name for path in tmp_path.rglob("*")} == {"folder", "a.tar"}


class TestReadCifar:
    @pytest.mark.parametrize("num_labels", [1, 2])
    def test_follows_the_format(self, num_labels):
        images = random_bytes(3, 32, 32, 3, seed=4)
        labels = random_bytes(3, num_labels, seed=5)
        content = b""
        for image, label in zip(images, labels, strict=True):
            content += bytes(label)
            for channel in range(3):
                content += bytes(
                    image[row, column, channel] for row in range(32) for column in range(32)
                )
        found_labels, found_images = prepare.read_cifar(content, num_labels=num_labels)
        np.testing.assert_array_equal(found_labels, labels)
        np.testing.assert_array_equal(found_images, images)

    def test_refuses_part_of_a_record(self):
        with pytest.raises(ValueError):
            prepare.read_cifar(bytes(2 * 3073 - 1), num_labels=1)


class TestRestoreGzipHeader:
    def test_gives_the_name_and_time_back(self):
        name = "t10k-labels-idx1-ubyte.gz"
        restored = prepare.restore_gzip_header(name, debian_gzip(b"payload"))
        assert restored[:4] == b"\x1f\x8b\x08\x08"
        assert restored[8:10] == b"\x00\x03"  # default compression, on Unix
        assert restored[10:33] == b"t10k-labels-idx1-ubyte\0"
        with gzip.open(io.BytesIO(restored)) as file:
            assert file.read() == b"payload"
            assert file.mtime == 1504176627

    def test_keeps_the_official_file(self):
        name = "t10k-labels-idx1-ubyte.gz"
        official = prepare.restore_gzip_header(name, debian_gzip(b"payload"))
        assert prepare.restore_gzip_header(name, official) == official

    @pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"<html>"])
    def test_leaves_rubbish_to_the_checksum(self, content):
        assert prepare.restore_gzip_header("t10k-labels-idx1-ubyte.gz", content) == content


FASHION_IMAGES = {"train": random_bytes(7, 28, 28, seed=6), "test": random_bytes(3, 28, 28, seed=7)}
FASHION_LABELS = {"train": np.arange(2, 9, dtype=np.uint8), "test": np.array([9, 0, 5], np.uint8)}


@pytest.fixture
def fashion_mnist(raw_dir, expect):
    """Small files as Debian has them; TFDS knows the checksums of the official ones."""
    arrays = [
        FASHION_IMAGES["train"],
        FASHION_LABELS["train"],
        FASHION_IMAGES["test"],
        FASHION_LABELS["test"],
    ]
    official = {}
    for name, array in zip(FASHION_FILES, arrays, strict=True):
        content = debian_gzip(idx(array))
        (raw_dir / name).write_bytes(content)
        official[mnist.FashionMNIST.URL + name] = prepare.restore_gzip_header(name, content)
    expect("fashion_mnist", {"train": 7, "test": 3}, official)
    return raw_dir


BUILTIN_OPEN = SimpleNamespace(io=SimpleNamespace(gfile=SimpleNamespace(GFile=open)))


def same_examples(ours, stock):
    for (our_key, our), (stock_key, example) in zip(ours, stock, strict=True):
        assert our_key == stock_key and our.keys() == example.keys()
        np.testing.assert_array_equal(np.asarray(our.pop("image")), example.pop("image").squeeze())
        assert our == example


class TestFashionMnist:
    def test_stock_tfds_reads_it(self, fashion_mnist, data_dir):
        prepare.prepare("fashion_mnist", data_dir=data_dir, raw_dir=fashion_mnist)
        for split in ("train", "test"):
            examples = read("fashion_mnist", split, data_dir)
            expected = dict(zip(FASHION_LABELS[split].tolist(), FASHION_IMAGES[split], strict=True))
            assert {example["label"] for example in examples} == set(expected)
            for example in examples:
                np.testing.assert_array_equal(example["image"][..., 0], expected[example["label"]])

    def test_examples_and_keys_are_those_of_the_stock_builder(
        self, fashion_mnist, tmp_path, monkeypatch
    ):
        """TFDS orders examples by their keys, so the same keys give the same dataset."""
        monkeypatch.setattr(mnist, "tf", BUILTIN_OPEN)
        raw = [fashion_mnist / name for name in FASHION_FILES[:2]]
        unpacked = [tmp_path / "images", tmp_path / "labels"]
        for compressed, path in zip(raw, unpacked, strict=True):
            path.write_bytes(gzip.decompress(compressed.read_bytes()))
        ours = prepare.FashionMNIST(data_dir=tmp_path)
        stock = tfds.builder("fashion_mnist", data_dir=tmp_path)
        same_examples(ours._generate_examples(*raw), stock._generate_examples(7, *unpacked))

    def test_images_without_labels_are_refused(self, tmp_path):
        paths = [tmp_path / "images.gz", tmp_path / "labels.gz"]
        for path, array in zip(
            paths, [FASHION_IMAGES["test"], np.array([1, 2], np.uint8)], strict=True
        ):
            path.write_bytes(debian_gzip(idx(array)))
        builder = prepare.FashionMNIST(data_dir=tmp_path)
        with pytest.raises(ValueError, match="shorter"):
            list(builder._generate_examples(*paths))


CIFAR: dict[str, Any] = {
    "cifar10": {
        "archive": "cifar-10-binary.tar.gz",
        "folder": "cifar-10-batches-bin/",
        "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
        "test": ["test_batch.bin"],
        "names": {"batches.meta.txt": 10},
    },
    "cifar100": {
        "archive": "cifar-100-binary.tar.gz",
        "folder": "cifar-100-binary/",
        "train": ["train.bin"],
        "test": ["test.bin"],
        "names": {"coarse_label_names.txt": 20, "fine_label_names.txt": 100},
    },
}


def cifar_files(name):
    """The files of a small archive, two examples each, in the order of the examples."""
    layout = CIFAR[name]
    files = {}
    for seed, file in enumerate(layout["train"] + layout["test"]):
        images = random_bytes(2, 3072, seed=seed)
        labels = random_bytes(2, len(layout["names"]), seed=100 + seed, high=10)
        files[file] = np.concatenate([labels, images], axis=1).tobytes()
    for file, number in layout["names"].items():
        names = [f"{file[:4]}_{index}" for index in range(number)]
        files[file] = "\n".join([*names, "", ""]).encode()
    return files


@pytest.fixture(params=CIFAR)
def small_cifar(request, raw_dir, expect):
    return make_small_cifar(request.param, raw_dir, expect)


def make_small_cifar(name, raw_dir, expect):
    layout, files = CIFAR[name], cifar_files(name)
    folder = layout["folder"]
    content = tar({folder + file: content for file, content in files.items()}, mode="w:gz")
    (raw_dir / layout["archive"]).write_bytes(content)
    url = "https://www.cs.toronto.edu/~kriz/" + layout["archive"]
    sizes = {split: 2 * len(layout[split]) for split in ("train", "test")}
    expect(name, sizes, {url: content})
    return name


class TestCifar:
    def test_stock_tfds_reads_it(self, small_cifar, raw_dir, data_dir):
        prepare.prepare(small_cifar, data_dir=data_dir, raw_dir=raw_dir)
        layout, files = CIFAR[small_cifar], cifar_files(small_cifar)
        num_labels = len(layout["names"])
        for split in ("train", "test"):
            content = b"".join(files[file] for file in layout[split])
            records = np.frombuffer(content, np.uint8).reshape(-1, num_labels + 3072)
            examples = {
                example["id"].decode(): example for example in read(small_cifar, split, data_dir)
            }
            assert list(sorted(examples)) == [f"{split}_{i:05d}" for i in range(len(records))]
            for (_, example), record in zip(sorted(examples.items()), records, strict=True):
                planes = record[num_labels:].reshape(3, 32, 32)
                np.testing.assert_array_equal(np.moveaxis(example["image"], -1, 0), planes)
                assert example["label"] == record[num_labels - 1]
                assert example.get("coarse_label", record[0]) == record[0]

    def test_the_names_of_the_classes_are_kept(self, small_cifar, raw_dir, data_dir):
        builder = prepare.prepare(small_cifar, data_dir=data_dir, raw_dir=raw_dir)
        number = builder.info.features["label"].num_classes
        file = list(CIFAR[small_cifar]["names"])[-1]
        expected = [f"{file[:4]}_{index}" for index in range(number)]
        assert builder.info.features["label"].names == expected

    def test_examples_and_keys_are_those_of_the_stock_builder(
        self, small_cifar, tmp_path, monkeypatch
    ):
        """TFDS orders examples by their keys, so the same keys give the same dataset."""
        monkeypatch.setattr(cifar, "tf", BUILTIN_OPEN)
        paths = []
        for file in CIFAR[small_cifar]["train"]:
            paths.append(tmp_path / file)
            paths[-1].write_bytes(cifar_files(small_cifar)[file])
        ours = prepare.BUILDERS[small_cifar](data_dir=tmp_path)
        stock = tfds.builder(small_cifar, data_dir=tmp_path)
        content = b"".join(path.read_bytes() for path in paths)
        same_examples(
            ours._generate_examples("train_", content), stock._generate_examples("train_", paths)
        )


def small_imagenet(raw_dir, files_of_validation=3):
    """Two classes; one image that is CMYK, one that is a PNG, as in the real archive."""
    colours = np.full((9, 5, 3), [200, 40, 90], np.uint8)
    image = PIL.Image.fromarray(colours)
    jpeg = encoded(image, "JPEG")
    first = {
        "n01440764_1.JPEG": jpeg,
        "n01739381_1309.JPEG": encoded(image.convert("CMYK"), "JPEG"),
    }
    second = {"n15075141_7.JPEG": jpeg, "n02105855_2933.JPEG": encoded(image, "PNG")}
    train = {"n01440764.tar": tar(first), "n15075141.tar": tar(second)}
    (raw_dir / "ILSVRC2012_img_train.tar").write_bytes(tar(train))
    numbers = [2, 1, 3][:files_of_validation]
    validation = {f"ILSVRC2012_val_{number:08d}.JPEG": jpeg for number in numbers}
    (raw_dir / "ILSVRC2012_img_val.tar").write_bytes(tar(validation))


class TestImagenet:
    def test_stock_tfds_reads_it(self, raw_dir, data_dir, expect):
        small_imagenet(raw_dir)
        expect("imagenet2012", {"train": 4, "validation": 3})
        prepare.prepare("imagenet2012", data_dir=data_dir, raw_dir=raw_dir)
        train = {e["file_name"].decode(): e for e in read("imagenet2012", "train", data_dir)}
        assert {name: example["label"] for name, example in train.items()} == {
            "n01440764_1.JPEG": 0,
            "n01739381_1309.JPEG": 0,
            "n15075141_7.JPEG": 999,
            "n02105855_2933.JPEG": 999,
        }
        for example in train.values():
            assert example["image"].shape == (9, 5, 3)
            np.testing.assert_allclose(example["image"].mean((0, 1)), [200, 40, 90], atol=12)

    def test_every_image_is_kept_as_a_jpeg(self, raw_dir, data_dir, expect):
        small_imagenet(raw_dir)
        expect("imagenet2012", {"train": 4, "validation": 3})
        builder = prepare.prepare("imagenet2012", data_dir=data_dir, raw_dir=raw_dir)
        as_stored = {"image": tfds.decode.SkipDecoding()}
        for example in builder.as_data_source("train", decoders=as_stored):
            assert example["image"].startswith(b"\xff\xd8")

    def test_validation_labels_follow_the_names(self, raw_dir, data_dir, expect):
        small_imagenet(raw_dir)
        expect("imagenet2012", {"train": 4, "validation": 3})
        builder = prepare.prepare("imagenet2012", data_dir=data_dir, raw_dir=raw_dir)
        class_names = builder.info.features["label"].names
        validation = {
            example["file_name"].decode(): class_names[example["label"]]
            for example in read("imagenet2012", "validation", data_dir)
        }
        assert validation == {
            "ILSVRC2012_val_00000001.JPEG": "n01751748",
            "ILSVRC2012_val_00000002.JPEG": "n09193705",
            "ILSVRC2012_val_00000003.JPEG": "n02105855",
        }

    def test_an_incomplete_archive_leaves_nothing(self, raw_dir, data_dir, expect):
        small_imagenet(raw_dir, files_of_validation=2)
        expect("imagenet2012", {"train": 4, "validation": 3})
        message = "imagenet2012 was not built: it holds {'train': 4, 'validation': 2} examples"
        with pytest.raises(ValueError, match=re.escape(message)):
            prepare.prepare("imagenet2012", data_dir=data_dir, raw_dir=raw_dir)
        assert not (data_dir / "imagenet2012" / "5.1.0").exists()

    def test_an_archive_cut_short_leaves_nothing(self, raw_dir, data_dir, expect):
        small_imagenet(raw_dir)
        archive = raw_dir / "ILSVRC2012_img_train.tar"
        archive.write_bytes(archive.read_bytes()[:4_000])
        expect("imagenet2012", {"train": 4, "validation": 3})
        with pytest.raises(ValueError, match="imagenet2012 was not built: "):
            prepare.prepare("imagenet2012", data_dir=data_dir, raw_dir=raw_dir)
        assert not (data_dir / "imagenet2012" / "5.1.0").exists()


class TestRefusals:
    def test_already_prepared_is_left_alone(self, fashion_mnist, data_dir, capsys):
        prepare.prepare("fashion_mnist", data_dir=data_dir, raw_dir=fashion_mnist)
        files = sorted((data_dir / "fashion_mnist" / "3.0.1").iterdir())
        before = [file.stat().st_mtime_ns for file in files]
        capsys.readouterr()
        builder = prepare.prepare("fashion_mnist", data_dir=data_dir, raw_dir="nowhere")
        assert capsys.readouterr().out == "fashion_mnist is already prepared.\n"
        assert [file.stat().st_mtime_ns for file in files] == before
        assert builder.info.splits["train"].num_examples == 7

    def test_what_cannot_be_used_is_not_overwritten(self, fashion_mnist, data_dir):
        directory = data_dir / "fashion_mnist" / "3.0.1"
        prepare.prepare("fashion_mnist", data_dir=data_dir, raw_dir=fashion_mnist)
        info = directory / "dataset_info.json"
        info.write_text(info.read_text().replace("array_record", "tfrecord"))
        with pytest.raises(DatasetNotFoundError, match="format is tfrecord.*\nMove it away"):
            prepare.prepare("fashion_mnist", data_dir=data_dir, raw_dir=fashion_mnist)
        assert info.exists()

    @pytest.mark.parametrize("name", FASHION_FILES)
    def test_a_wrong_checksum(self, fashion_mnist, data_dir, name):
        file = fashion_mnist / name
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        with pytest.raises(ValueError) as error:
            prepare.prepare("fashion_mnist", data_dir=data_dir, raw_dir=fashion_mnist)
        message = str(error.value)
        assert message.startswith("fashion_mnist was not built: ")
        assert f"{name}, has wrong checksum." in message and "\n" not in message
        assert not list((data_dir / "fashion_mnist").iterdir())

    def test_an_interrupted_build_leaves_nothing(self, fashion_mnist, data_dir, monkeypatch):
        def stop(self, images, labels):
            yield 0, {"image": PIL.Image.fromarray(FASHION_IMAGES["test"][0]), "label": 1}
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(prepare.FashionMNIST, "_generate_examples", stop)
            prepare.prepare("fashion_mnist", data_dir=data_dir, raw_dir=fashion_mnist)
        with pytest.raises(DatasetNotFoundError, match="is not prepared"):
            sources.load("fashion_mnist", data_dir=data_dir)
        prepare.prepare("fashion_mnist", data_dir=data_dir, raw_dir=fashion_mnist)
        assert len(read("fashion_mnist", "train", data_dir)) == 7

    @pytest.mark.parametrize("name", FASHION_FILES)
    def test_a_file_missing_from_raw_dir(self, fashion_mnist, data_dir, name):
        (fashion_mnist / name).unlink()
        with pytest.raises(FileNotFoundError) as error:
            prepare.prepare("fashion_mnist", data_dir=data_dir, raw_dir=fashion_mnist)
        assert str(error.value).startswith(
            f"There is no {fashion_mnist / name}.\nTo get fashion_mnist: "
        )

    def test_imagenet_is_not_downloaded(self, data_dir):
        with pytest.raises(FileNotFoundError) as error:
            prepare.prepare("imagenet2012", data_dir=data_dir)
        assert "There is no " in str(error.value)
        assert "ILSVRC2012_img_val.tar" in str(error.value)
        assert f"--data_dir={data_dir} --raw_dir=DIR" in str(error.value)

    def test_digits_need_nothing(self):
        with pytest.raises(ValueError, match="there is nothing to prepare"):
            prepare.prepare("digits")

    def test_unknown_name(self):
        with pytest.raises(ValueError, match="got 'cifar_10'. Did you mean 'cifar10'"):
            prepare.prepare("cifar_10")


class TestDownload:
    def test_without_a_network(self, data_dir, monkeypatch):
        def fail(request, timeout):
            raise urllib.error.URLError("Name or service not known")

        monkeypatch.setattr("urllib.request.urlopen", fail)
        with pytest.raises(FileNotFoundError) as error:
            prepare.prepare("cifar10", data_dir=data_dir)
        message = str(error.value)
        assert (
            f"There is no {data_dir}/downloads/manual/cifar-10-binary.tar.gz, and https://"
            in message
        )
        assert "cannot be reached (<urlopen error Name or service not known>).\nTo get" in message
        assert not (data_dir / "cifar10").exists()

    def test_a_silent_network_is_given_up(self, data_dir, monkeypatch):
        never = threading.Event()
        monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: never.wait())
        monkeypatch.setattr(prepare, "NETWORK_DEADLINE", 0.2)
        started = time.monotonic()
        with pytest.raises(FileNotFoundError, match="cannot be reached .no answer."):
            prepare.prepare("cifar100", data_dir=data_dir)
        assert time.monotonic() - started < 5

    def test_the_deadline_leaves_time_for_the_rest(self):
        assert prepare.NETWORK_DEADLINE <= 5

    def test_missing_debian_files_are_looked_for_on_the_network(self, data_dir, monkeypatch):
        monkeypatch.setattr(prepare, "DEBIAN_FASHION_MNIST", data_dir / "none")
        monkeypatch.setattr(prepare, "_why_unreachable", lambda url: f"asked for {url}")
        with pytest.raises(FileNotFoundError) as error:
            prepare.prepare("fashion_mnist", data_dir=data_dir)
        url = mnist.FashionMNIST.URL + "train-images-idx3-ubyte.gz"
        assert f"There is no {data_dir}/none/train-images-idx3-ubyte.gz" in str(error.value)
        assert f"(asked for {url})" in str(error.value)
        assert "apt-get install dataset-fashion-mnist && python" in str(error.value)

    def test_what_answers_is_downloaded(self, raw_dir, data_dir, expect, monkeypatch):
        make_small_cifar("cifar10", raw_dir, expect)
        content = (raw_dir / "cifar-10-binary.tar.gz").read_bytes()
        with serve(raw_dir) as address:
            url = f"{address}/cifar-10-binary.tar.gz"
            expect("cifar10", {"train": 10, "test": 2}, {url: content})
            monkeypatch.setattr(prepare.Cifar10, "raw_urls", [url])
            monkeypatch.setattr("urllib.request.urlopen", URLOPEN)
            monkeypatch.setattr("requests.Session.get", REQUESTS_GET)
            monkeypatch.setenv("no_proxy", "*")
            prepare.prepare("cifar10", data_dir=data_dir)
        assert len(read("cifar10", "train", data_dir)) == 10

    def test_what_is_not_there_is_said(self, raw_dir, data_dir, monkeypatch):
        monkeypatch.setattr("urllib.request.urlopen", URLOPEN)
        monkeypatch.setenv("no_proxy", "*")
        with serve(raw_dir) as address:
            monkeypatch.setattr(prepare.Cifar10, "raw_urls", [f"{address}/moved.tar.gz"])
            with pytest.raises(FileNotFoundError, match="cannot be reached .HTTP Error 404"):
                prepare.prepare("cifar10", data_dir=data_dir)


COMMAND = [sys.executable, "-m", "experiments.prepare_data"]


class TestCommand:
    def test_an_error_is_said_without_a_traceback(self, data_dir):
        arguments = ["--dataset=imagenet2012", f"--data_dir={data_dir}"]
        run = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
        assert run.returncode == 2
        assert run.stdout == ""
        assert commands.without_waits(run.stderr).startswith(
            f"There is no {data_dir}/downloads/manual/ILSVRC2012_img_train"
        )
        assert commands.without_waits(run.stderr).count("\n") == 2

    def test_a_missing_package_is_said(self):
        program = (
            "import runpy, sys; sys.modules['tensorflow_datasets'] = None; "
            "sys.argv = ['prepare_data', '--dataset=cifar10']; "
            "runpy.run_module('experiments.prepare_data', run_name='__main__')"
        )
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert run.returncode == 2
        assert 'Install it: in the clone of cyclical_jax, pip install ".[train]"' in run.stderr
        assert commands.without_waits(run.stderr).count("\n") == 1

    @pytest.mark.parametrize("arguments", [["cifar10"], ["--dataset=cifar10", "cifar100"]])
    def test_a_stray_word_is_refused(self, arguments):
        run = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
        assert run.returncode == 2
        assert "Traceback" not in run.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    not prepare.DEBIAN_FASHION_MNIST.exists(),
    reason="Debian's package dataset-fashion-mnist is not installed",
)
def test_fashion_mnist_from_debian(data_dir):
    arguments = ["--dataset=fashion_mnist", f"--data_dir={data_dir}"]
    run = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=True)
    directory = data_dir / "fashion_mnist" / "3.0.1"
    last_line = run.stdout.splitlines()[-1]
    assert last_line == f"fashion_mnist is in {directory}: 60,000 train, 10,000 test examples."

    raw = {}
    for split, prefix in [("train", "train"), ("test", "t10k")]:
        files = [f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"]
        contents = [gzip.open(prepare.DEBIAN_FASHION_MNIST / file).read() for file in files]
        images = np.frombuffer(contents[0], np.uint8, offset=16).reshape(-1, 784)
        raw[split] = np.column_stack([images, np.frombuffer(contents[1], np.uint8, offset=8)])
    assert [len(raw["train"]), len(raw["test"])] == [60_000, 10_000]

    dataset = sources.load("fashion_mnist", data_dir=data_dir)
    assert [len(split["label"]) for split in dataset[:3]] == [55_000, 5_000, 10_000]
    flat = [
        np.column_stack([split["image"].reshape(-1, 784), split["label"].astype(np.uint8)])
        for split in dataset[:3]
    ]
    assert digest_of_sorted(np.concatenate(flat[:2])) == digest_of_sorted(raw["train"])
    assert digest_of_sorted(flat[2]) == digest_of_sorted(raw["test"])
    assert np.bincount(raw["train"][:, -1]).tolist() == [6_000] * 10
    assert np.bincount(dataset.test["label"]).tolist() == [1_000] * 10

    stock = tfds.data_source("fashion_mnist", split="train", data_dir=data_dir, download=False)
    images = np.concatenate([dataset.train["image"], dataset.validation["image"]])
    assert len(stock) == 60_000
    for index in range(0, 60_000, 97):
        np.testing.assert_array_equal(stock[index]["image"], images[index])


def digest_of_sorted(rows):
    return hashlib.sha256(b"".join(sorted(row.tobytes() for row in rows))).hexdigest()
