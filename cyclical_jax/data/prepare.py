"""Builds TFDS's datasets without TensorFlow.

TFDS's own builders of the datasets that have a name here open files and encode images with
TensorFlow. Ours keep their names, features, keys and checksums, so the result is the same dataset,
and TFDS can read it. "tfds:NAME" is built by TFDS's own builder, which may need TensorFlow.

No archive is unpacked: its members are read one after the other, whatever their paths.
"""

import contextlib
import difflib
import functools
import gzip
import io
import struct
import tarfile
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder as imagenet
from tensorflow_datasets.image_classification import cifar, mnist

from cyclical_jax import _checks
from cyclical_jax.data import tfds_any, tfds_files
from cyclical_jax.data.dataset import DatasetNotFoundError, PathLike
from cyclical_jax.data.tfds_named import (
    TFDS_DATASETS,
    how_to_get,
    open_prepared,
    prepared_directory,
)

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
NETWORK_DEADLINE = 5.0  # seconds

# The times at which the official files were compressed. TFDS's checksums cover the gzip headers,
# from which Debian removed these times and the file names.
GZIP_TIMES = {
    "train-images-idx3-ubyte.gz": 1504176606,
    "train-labels-idx1-ubyte.gz": 1504176606,
    "t10k-images-idx3-ubyte.gz": 1504176627,
    "t10k-labels-idx1-ubyte.gz": 1504176627,
}


def prepare(name: str, *, data_dir: PathLike | None = None, raw_dir: PathLike | None = None) -> Any:
    """Builds a dataset from its raw files, unless it is there already.

    Args:
      name: "fashion_mnist", "cifar10", "cifar100" or "imagenet2012"; or "tfds:NAME", any of TFDS's.
      data_dir: Directory of TFDS's datasets; None is TFDS's default.
      raw_dir: Directory of all the official files. If None, they are looked for in Debian's
        directory (fashion_mnist) or in `<data_dir>/downloads/manual` (the others), and files that
        are missing there are downloaded, except imagenet2012's.

    Returns:
      TFDS's builder of the dataset, ready to be read.

    Raises:
      ValueError: `name` is not one of these, or the raw files are not the official ones; or TFDS
        cannot build it.
      OSError: A raw file is missing and cannot be downloaded.
      DatasetNotFoundError: The dataset is there already, but cannot be used.
    """
    if name == "digits":
        raise ValueError("'digits' comes with scikit-learn: there is nothing to prepare.")
    word, colon, place = name.partition(":")
    if colon and word == "tfds":
        return _prepare_any(place, data_dir, raw_dir)
    _checks.one_of("dataset", name, BUILDERS)
    directory = prepared_directory(name, data_dir)
    if directory.exists():
        builder = open_prepared(name, data_dir)
        print(f"{name} is already prepared.")
        return builder
    builder = BUILDERS[name](data_dir=directory.parents[1], file_format="array_record")
    with tempfile.TemporaryDirectory() as manual_dir:
        if missing := _collect_raw_files(builder, raw_dir, Path(manual_dir)):
            raise FileNotFoundError(f"{missing}.\nTo get {name}: {how_to_get(name, data_dir)}")
        _build(builder, manual_dir)
    return open_prepared(name, data_dir)


def _prepare_any(place: str, data_dir: PathLike | None, raw_dir: PathLike | None) -> Any:
    """Builds a dataset by TFDS's own builder, unless it is there already."""
    with contextlib.suppress(DatasetNotFoundError):
        directory = tfds_any.directory_of(place, data_dir)
        tfds_any.find(place, data_dir)  # raises an error if it cannot be used
        print(f"tfds:{place} is already prepared.")
        return tfds.builder_from_directory(directory)
    known, name = tfds.list_builders(with_community_datasets=False), place.partition(":")[0]
    if (first := name.partition("/")[0]) not in known:
        near = difflib.get_close_matches(first, known, n=1)
        hint = f" Did you mean 'tfds:{near[0]}'?" if near else ""
        raise ValueError(f"TFDS has no dataset {first!r}.{hint}")
    manual = None if raw_dir is None else str(Path(raw_dir).expanduser())
    config = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
    root = None if data_dir is None else Path(data_dir).expanduser()
    try:
        builder = tfds.builder(place, data_dir=root, file_format="array_record")
        _encode_by_pillow(builder)
        _check_network(builder)
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # of its own code, of the network, of a missing library
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[-1] if lines else 'no reason given'}"
        hint = " Its builder needs TensorFlow, and only it does." if "tensorflow" in reason else ""
        raise ValueError(f"tfds:{place} was not built: {reason.rstrip('.')}.{hint}") from error
    return builder


def _check_network(builder: Any) -> None:
    """Raises OSError if the first file of a builder is on a host that does not answer."""
    for url in list(builder.url_infos or ())[:1]:
        reason = _why_unreachable(url)
        if reason and not reason.startswith("HTTP Error"):  # which is an answer
            raise OSError(f"{url} cannot be reached ({reason})")


def _encode_by_pillow(builder: Any) -> None:
    """Lets a builder encode arrays of bytes as PNG, which TFDS leaves to TensorFlow."""
    for feature in builder.info.features.values():
        if isinstance(feature, tfds.features.Image) and feature.encoding_format != "jpeg":
            feature.encode_example = functools.partial(_encoded, feature.encode_example)


def _encoded(encode: Callable[[Any], Any], image: Any) -> Any:
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        image = PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return encode(image)


def _collect_raw_files(builder: Any, raw_dir: PathLike | None, manual_dir: Path) -> str | None:
    """Puts the raw files into `manual_dir`, where TFDS looks before it downloads.

    Returns:
      A message about the first file that is missing and cannot be downloaded, or None.
    """
    may_download = raw_dir is None and not builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    directory = Path(raw_dir or _default_raw_dir(builder)).expanduser()
    for url in builder.raw_urls:
        file = directory / _file_name(url)
        if file.exists():
            _place(file, manual_dir)
        elif not may_download:
            return f"There is no {file}"
        elif reason := _why_unreachable(url):
            return f"There is no {file}, and {url} cannot be reached ({reason})"
    return None


def _default_raw_dir(builder: Any) -> PathLike:
    if builder.name == "fashion_mnist":
        return DEBIAN_FASHION_MNIST
    return builder.data_dir_root / "downloads" / "manual"


def _place(file: Path, manual_dir: Path) -> None:
    if file.name in GZIP_TIMES:
        (manual_dir / file.name).write_bytes(restore_gzip_header(file.name, file.read_bytes()))
    else:
        (manual_dir / file.name).symlink_to(file.resolve())


def _why_unreachable(url: str) -> str:
    """Returns why a URL does not answer, or "". It asks once; TFDS would try for minutes."""
    reasons = []

    def ask():
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=NETWORK_DEADLINE).close()
            reasons.append("")
        except OSError as error:
            reasons.append(str(error))

    # In a thread, because the timeout does not cover the look-up of the host's address.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_DEADLINE)
    return reasons[0] if reasons else "no answer"


def _build(builder: Any, manual_dir: str) -> None:
    """Builds the dataset; if that fails, no files are left."""
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    try:
        with _quiet():
            builder.download_and_prepare(download_config=config)
    except (NonMatchingChecksumError, tfds.download.DownloadError, tarfile.TarError) as error:
        reason = str(error).partition("\n")[0].rstrip(":.")
        raise ValueError(f"{builder.name} was not built: {reason}.") from error
    # TFDS has no checksums of ImageNet's archives, so a truncated one is noticed only here.
    if flaw := tfds_files.find_flaw(builder, TFDS_DATASETS[builder.name].num_examples):
        builder.data_path.rmtree()
        raise ValueError(f"{builder.name} was not built: {flaw}.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides TFDS's bars and banners; what goes wrong is raised all the same."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


def _file_name(url: str) -> str:
    return url.rsplit("/", 1)[-1]


def restore_gzip_header(name: str, content: bytes) -> bytes:
    """Returns the official gzip file of that name from Debian's copy of it, or from itself."""
    flags = content[3:4]
    if flags != b"\0":
        return content
    header = b"\x1f\x8b\x08\x08" + struct.pack("<I", GZIP_TIMES[name]) + b"\x00\x03"
    return header + name.removesuffix(".gz").encode() + b"\0" + content[10:]


def read_idx(path: PathLike) -> np.ndarray:
    """Reads a gzipped idx file of bytes: 0, 0, 8, the number of axes, their big-endian lengths."""
    with gzip.open(path) as file:
        content = file.read()
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an idx file of bytes.")
    num_axes = content[3]
    shape = struct.unpack_from(f">{num_axes}I", content, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape)


def read_cifar(content: bytes, *, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads CIFAR records: one byte per label, then the image's red, green and blue planes.

    Returns:
      labels uint8 [n, num_labels], images uint8 [n, 32, 32, 3].

    Raises:
      ValueError: `content` is not a whole number of records.
    """
    records = np.frombuffer(content, np.uint8).reshape(-1, num_labels + 3 * 32 * 32)
    images = records[:, num_labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return records[:, :num_labels], np.ascontiguousarray(images)


class _CifarArchive:
    """The shared part of CIFAR-10 and CIFAR-100: both are a tar archive of records."""

    _cifar_info: Any  # TFDS's
    info: Any  # TFDS's

    @property
    def raw_urls(self):
        return [self._cifar_info.url]

    def _split_generators(self, dl_manager):
        info = self._cifar_info
        [archive] = dl_manager.download(self.raw_urls)
        files = {name: file.read() for name, file in _stream_tar(archive)}
        for key, file in zip(info.label_keys, info.label_files, strict=True):
            self.info.features[key].names = files[info.prefix + file].decode().strip().split("\n")
        train = b"".join(files[info.prefix + file] for file in info.train_files)
        test = b"".join(files[info.prefix + file] for file in info.test_files)
        return {
            "train": self._generate_examples("train_", train),
            "test": self._generate_examples("test_", test),
        }

    def _generate_examples(self, id_prefix, records):
        keys = self._cifar_info.label_keys
        labels, images = read_cifar(records, num_labels=len(keys))
        for index, (label, image) in enumerate(zip(labels.tolist(), images, strict=True)):
            example = dict(zip(keys, label, strict=True))
            example["id"] = f"{id_prefix}{index:05d}"
            example["image"] = PIL.Image.fromarray(image)
            yield index, example


with tfds.core.registered.skip_registration():  # the names belong to TFDS's own builders

    class FashionMNIST(mnist.FashionMNIST):
        """Fashion-MNIST from its four idx files."""

        raw_urls = [mnist.FashionMNIST.URL + file for file in GZIP_TIMES]

        def _split_generators(self, dl_manager):
            files = dl_manager.download(self.raw_urls)
            return {
                "train": self._generate_examples(*files[:2]),
                "test": self._generate_examples(*files[2:]),
            }

        def _generate_examples(self, images, labels):
            pairs = zip(read_idx(images), read_idx(labels), strict=True)
            for index, (image, label) in enumerate(pairs):
                yield index, {"image": PIL.Image.fromarray(image), "label": int(label)}

    class Cifar10(_CifarArchive, cifar.Cifar10):
        """CIFAR-10 from its tar archive."""

    class Cifar100(_CifarArchive, cifar.Cifar100):
        """CIFAR-100 from its tar archive."""

    class Imagenet2012(imagenet.Builder):
        """ImageNet-1k from its two tar archives, which TFDS cannot download."""

        pkg_dir_path = Path(imagenet.__file__).parent  # where its description is
        raw_urls = list(imagenet.Builder.url_infos)

        def _split_generators(self, dl_manager):
            train, validation = (dl_manager.manual_dir / _file_name(url) for url in self.raw_urls)
            return {
                "train": self._generate_examples(_stream_tar(train)),
                "validation": self._generate_examples(
                    _stream_tar(validation), _validation_labels(validation)
                ),
            }

        def _fix_image(self, image_fname, image):
            """Makes RGB JPEGs of 22 CMYK images and a PNG; colours may differ from TensorFlow's."""
            if image_fname not in (*imagenet.CMYK_IMAGES, *imagenet.PNG_IMAGES):
                return image
            fixed = io.BytesIO()
            with PIL.Image.open(io.BytesIO(image.read())) as original:
                original.convert("RGB").save(fixed, "JPEG", quality=100)
            fixed.seek(0)
            return fixed


def _stream_tar(path: Path) -> Iterator[tuple[str, BinaryIO]]:
    with path.open("rb") as file:  # TFDS would open a path with TensorFlow
        yield from tfds.download.iter_archive(file, tfds.download.ExtractMethod.TAR_STREAM)


def _validation_labels(archive: Path) -> dict[str, str]:
    """Returns {image name: label}; TFDS lists the labels in the order of the names."""
    labels = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
    with tarfile.open(archive) as tar:
        return dict(zip(sorted(tar.getnames()), labels, strict=False))


BUILDERS: dict[str, Any] = {
    "fashion_mnist": FashionMNIST,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "imagenet2012": Imagenet2012,
}
