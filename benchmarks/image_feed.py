"""Images per second and core of the feed for ImageNet, beside timm's.

    python -m benchmarks.image_feed

It uses one core. timm's feed is torch's DataLoader with `timm.data.create_transform`, set to crop
and mirror only. Both crop the same 256 JPEGs of 500 x 375 pixels from memory: two photographs of
scikit-learn, shifted. Feeds have one worker process and batches of 64 images of 224 x 224; the
first batch, with which the worker starts, is not counted. Crops are the same work in this process,
to 224 and to 112 pixels. Ours decodes a JPEG at a half, a quarter or an eighth if the crop is then
at least as large as its result, which no crop of these to 224 is. "In full" never does so.
"""

from benchmarks import interleaved

interleaved.pin_to_one_core()

import functools  # noqa: E402
import io  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from typing import Any  # noqa: E402
from unittest import mock  # noqa: E402

import numpy as np  # noqa: E402
import PIL.Image  # noqa: E402
import torch  # noqa: E402

from benchmarks.peers import import_timm  # noqa: E402
from benchmarks.photographs import jpeg  # noqa: E402
from cyclical_jax.data import Stream, crops  # noqa: E402
from cyclical_jax.data.batches import shuffled  # noqa: E402

timm = import_timm()

BATCH, BATCHES, NUM_JPEGS, ROUNDS = 64, 12, 256, 7

Crop = Callable[[bytes, int], Any]  # (JPEG, seed) -> pixels


class JpegDataset(torch.utils.data.Dataset):
    """The dataset that timm's loader reads."""

    def __init__(self, jpegs: list[bytes]):
        self._jpegs, self._transform = jpegs, timm_transform(224)

    def __len__(self):
        return len(self._jpegs)

    def __getitem__(self, index):
        return self._transform(opened(self._jpegs[index]))


def main():
    jpegs = [jpeg(number) for number in range(NUM_JPEGS)]
    print(f"timm {timm.__version__}, torch {torch.__version__}, Pillow {PIL.__version__}, one core")
    feeds = {"ours": functools.partial(ours, jpegs), "timm's": functools.partial(timms, jpegs)}
    print_rates("feed", {name: functools.partial(feed_rate, feed) for name, feed in feeds.items()})
    for size in (224, 112):
        makers = crops_to(size)
        rates = {name: functools.partial(crop_rate, crop, jpegs) for name, crop in makers.items()}
        print_rates(f"crop to {size}", rates)
        differences = [
            np.abs(drafted.astype(int) - full.astype(int)).mean()
            for drafted, full in zip(
                *(all_crops(makers[name], jpegs) for name in ("ours", "ours, in full")), strict=True
            )
        ]
        print(
            f"crop to {size}, ours from ours in full: of 255 grey levels {np.mean(differences):.2f}"
            f", of one image at most {max(differences):.2f}"
        )


def print_rates(what: str, functions: dict[str, Callable[[], float]]) -> None:
    rounds = [{name: rate() for name, rate in functions.items()} for _ in range(ROUNDS)]
    for name in functions:
        rates = [each[name] for each in rounds]
        ratio = np.median([each[name] / each["timm's"] for each in rounds])
        spread = f"({min(rates):.0f} to {max(rates):.0f})"
        print(f"{what}, {name}: {np.median(rates):.0f} images/s {spread}, {ratio:.2f} of timm's")


def opened(encoded: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(encoded)).convert("RGB")


# ---- the feeds


def ours(jpegs: list[bytes]) -> Iterator[object]:
    examples = [{"image": encoded, "label": 0, "file_name": b""} for encoded in jpegs]
    stream = Stream("here", functools.partial(list, examples), range(len(jpegs)), 224, True)
    select = functools.partial(shuffled, len(jpegs), BATCH, seed=0, remainder="drop")
    return stream.batches(select, start=0, stop=BATCHES, seed=0, num_workers=1)


def timms(jpegs: list[bytes]) -> Iterator[object]:
    repeated = torch.utils.data.RandomSampler(range(len(jpegs)), num_samples=BATCH * BATCHES)
    options = {"batch_size": BATCH, "num_workers": 1, "sampler": repeated}
    return iter(torch.utils.data.DataLoader(JpegDataset(jpegs), **options))


def feed_rate(feed: Callable[[], Iterator[object]]) -> float:
    batches = feed()
    next(batches)
    start = time.perf_counter()
    for _ in range(BATCHES - 1):
        next(batches)
    return BATCH * (BATCHES - 1) / (time.perf_counter() - start)


# ---- the crops


def crops_to(size: int) -> dict[str, Crop]:
    transform = timm_transform(size)

    def ours(encoded, seed):
        return crops.random_crop(encoded, size, np.random.default_rng(seed))

    def in_full(encoded, seed):
        with mock.patch.object(PIL.JpegImagePlugin.JpegImageFile, "draft", lambda *_: None):
            return ours(encoded, seed)

    def timms(encoded, seed):
        return transform(opened(encoded))

    return {"ours": ours, "ours, in full": in_full, "timm's": timms}


def timm_transform(size: int):
    options = {"color_jitter": None, "interpolation": "bilinear", "use_prefetcher": True}  # bytes
    return timm.data.create_transform(size, is_training=True, **options)


def all_crops(crop: Crop, jpegs: list[bytes]) -> list[np.ndarray]:
    return [crop(encoded, seed) for seed, encoded in enumerate(jpegs)]


def crop_rate(crop: Crop, jpegs: list[bytes]) -> float:
    start = time.perf_counter()
    all_crops(crop, jpegs)
    return len(jpegs) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
