"""Augmentation of images on the device, by operations whose strength may cycle.

Every operation is `operation(key, images, strength, ...) -> images`. Images are [batch, height,
width, channels], uint8 or floats, with one or three channels; the strength s is a scalar in [0, 1]
that may be traced. Each example has random draws of its own. At s = 0 an operation is the identity,
bit for bit; at s = 1 it has the full range of its arguments; between them, s scales the drawn
magnitude. A flip has no magnitude, so s scales its probability. Images keep their dtype; the
arithmetic is in float32. The axis of the batch may be sharded over devices.

`limits` are the least and the greatest value of a pixel: (0, 255) for bytes, which are rounded to
the nearest, and (-1, 1) for floats unless the caller says otherwise. Crop, flip, erase, mixup and
cutmix make no new values and cut none; the others cut to the limits. Standardised images lie beyond
(-1, 1): pass `limits=None`. Then nothing is cut, and pixels from outside of an image are 0, their
mean. Brightness, and so a mix, cannot do without limits, because black is the lower one.

`mixup` and `cutmix` mix labels too, so they take and return both.

Source: the abstract of arXiv 2202.08835 names augmentation; that weak is easy and strong is hard is
our reading. Slices and gathers move the pixels of a whole batch at once; other JAX libraries
augment one image at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax import _checks, _sharding
from cyclical_jax._dtypes import as_array, widened
from cyclical_jax._types import Array, Number

Limits: TypeAlias = tuple[float, float]
Batch: TypeAlias = dict[str, Any]
Transform: TypeAlias = Callable[[Batch, jax.Array, Number], Batch]
Operation: TypeAlias = Callable[..., jax.Array]
Labels: TypeAlias = Any  # [batch, classes], or a tree of floats [batch, ...]

_AnyOperation = TypeVar("_AnyOperation", bound=Operation)

_GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue, ITU-R BT.601
_LIMITS = (-1.0, 1.0)


def augment(
    operations: Sequence[str | Operation],
    *,
    num_classes: int | None = None,
    limits: Limits | None = _LIMITS,
    mixed: Sequence[str] = ("weight", "rank", "difficulty"),
) -> Transform:
    """Returns a transform that applies the operations to a batch, one after the other.

    Args:
      operations: Names of `OPERATIONS`, "mixup" or "cutmix", each with its default arguments; or
        operations such as `functools.partial(random_crop, most=0.25)`.
      num_classes: Number of classes, needed by mixtures: they turn class indices into
        probabilities, [batch, classes].
      limits: The least and the greatest value of a pixel, for floats; bytes have their own. None
        cuts nothing, for standardised images; see the top of this file.
      mixed: Entries of the batch, floats [batch, ...], that mixtures mix as they mix the labels. An
        entry that a batch lacks is left out.

    Returns:
      `transform(batch, key, strength) -> batch`. A batch is a dict with "image" and, for mixtures,
      "label", whose class indices must be in range. An example whose "mask" is 0 is not mixed.

    Raises:
      ValueError: A name is unknown, `operations` or `mixed` is a single string, `num_classes` is
        missing, or `limits` are not two rising numbers.

    Examples:
      >>> transform = augment(["crop", "flip", "mixup"], num_classes=2)
      >>> batch = {"image": jnp.zeros((4, 8, 8, 3)), "label": jnp.array([0, 1, 1, 0])}
      >>> batch = jax.jit(transform)(batch, jax.random.key(0), 0.5)
      >>> batch["image"].shape, batch["label"].shape
      ((4, 8, 8, 3), (4, 2))
    """
    if isinstance(operations, str):
        raise ValueError(f"`operations` must be a list, say [{operations!r}], got {operations!r}.")
    if isinstance(mixed, str):
        raise ValueError(f"`mixed` must be a list, say [{mixed!r}], got {mixed!r}.")
    if num_classes is not None:
        _checks.whole_number("num_classes", num_classes, minimum=1, maximum=2**31 - 1)
    names = [operation for operation in operations if isinstance(operation, str)]
    for name in names:
        _checks.one_of("name", name, NAMES)
    if num_classes is None and MIXTURES.keys() & set(names):
        raise ValueError("`num_classes` must be given for mixup and cutmix, got None.")
    _check_limits(limits)

    def transform(batch, key, strength):
        keys = jax.random.split(key, len(operations))
        for operation, own_key in zip(operations, keys, strict=True):
            if operation in MIXTURES:
                labels = {"label": _probabilities(batch["label"], num_classes)}
                labels |= {name: batch[name] for name in mixed if name in batch}
                batch = batch | _mixed_batch(operation, own_key, batch, labels, strength)
            else:
                change = OPERATIONS[operation] if isinstance(operation, str) else operation
                image = change(own_key, batch["image"], strength, limits=limits)
                batch = batch | {"image": image}
        return batch

    return transform


def _mixed_batch(name, key, batch, labels, strength) -> Batch:
    mixture = MIXTURES[name]
    image, labels = mixture(key, batch["image"], labels, strength, mask=batch.get("mask"))
    return {"image": image, **labels}


def _identity_at_zero(operation: _AnyOperation) -> _AnyOperation:
    """Returns `operation` for bytes too: it computes in floats; strength 0 is the identity."""

    @functools.wraps(operation)
    def call(key, images, strength, *, limits=_LIMITS, **options):
        images, strength = _checked(images, strength)
        _check_limits(limits)
        is_bytes = images.dtype == jnp.uint8
        limits = (0.0, 255.0) if is_bytes else limits
        changed = operation(key, widened(images), strength, limits=limits, **options)
        changed = jnp.round(changed) if is_bytes else changed
        return jnp.where(strength > 0, changed.astype(images.dtype), images)

    return call  # type: ignore[return-value]


def _float(number):
    """Returns a number in float32, the dtype of the computation."""
    return jnp.asarray(number, jnp.float32)


def _outside(limits):
    """Returns the value of pixels from outside of an image."""
    return 0.0 if limits is None else sum(limits) / 2


def _cut(values, limits):
    return values if limits is None else jnp.clip(values, *limits)


def _on_axes_of(values, one_each):
    """Returns [batch] numbers with an axis of length 1 for each further axis of `values`."""
    return jnp.expand_dims(one_each, tuple(range(1, values.ndim)))


# ---- where the pixels are


@_identity_at_zero
def random_crop(
    key: jax.Array,
    images: Array,
    strength: Number,
    *,
    limits: Limits | None = _LIMITS,
    most: float = 0.125,
) -> jax.Array:
    """Returns images moved by whole pixels, up to `s most` of a side both ways; by default 4 of 32.

    The distance is uniform and rounded. Pixels from outside are the middle of `limits`, or 0. The
    size of the border depends on `most`, so it cannot be traced.
    """
    _checks.number("most", most, minimum=0, maximum=1)
    pads = [round(most * side) for side in images.shape[1:3]]
    around = (0, 0), (pads[0],) * 2, (pads[1],) * 2, (0, 0)
    padded = jnp.pad(images, around, constant_values=_outside(limits))
    drawn = strength * jax.random.uniform(key, (len(images), 2), minval=-1.0, maxval=1.0)
    # Half a pixel is added, so that at s = 1 the farthest moves are as likely as the others.
    farthest = jnp.array([pads])
    moves = jnp.round(drawn * (_float(farthest) + 0.5)).astype(jnp.int32)
    starts = jnp.pad(jnp.clip(farthest + moves, 0, 2 * farthest), ((0, 0), (0, 1)))

    def crop(image, start):
        return jax.lax.dynamic_slice(image, start, images.shape[1:])

    return jax.vmap(crop)(padded, _sharding.of_examples(starts, padded))


@_identity_at_zero
def random_flip(
    key: jax.Array, images: Array, strength: Number, *, limits: Limits | None = _LIMITS
) -> jax.Array:
    """Returns images mirrored left to right with probability s / 2."""
    del limits
    is_flipped = jax.random.bernoulli(key, 0.5 * strength, (len(images), 1, 1, 1))
    return jnp.where(is_flipped, images[:, :, ::-1], images)


@_identity_at_zero
def random_affine(
    key: jax.Array,
    images: Array,
    strength: Number,
    *,
    limits: Limits | None = _LIMITS,
    rotation: Number = 30.0,
    translation: Number = 0.1,
    shear: Number = 0.3,
) -> jax.Array:
    """Returns images rotated, sheared and moved at once, interpolated bilinearly.

    They turn about their middle. The angle is uniform within `s rotation` degrees, the shear of
    columns within `s shear`, the translation within `s translation` of a side, both ways. Pixels
    from outside are the middle of `limits`, or 0. Results are cut to `limits`.
    """
    _checks.number("rotation", rotation, minimum=0, maximum=180)
    _checks.number("translation", translation, minimum=0, maximum=1)
    _checks.number("shear", shear, minimum=0)
    height, width = images.shape[1:3]
    drawn = strength * jax.random.uniform(key, (4, len(images)), minval=-1.0, maxval=1.0)
    angle, slope = jnp.deg2rad(_float(rotation)) * drawn[0], _float(shear) * drawn[1]
    shift = _float(translation) * drawn[2:] * _float([[height], [width]])
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.stack([cos, -sin + slope * cos, sin, cos + slope * sin], -1).reshape(-1, 2, 2)
    changed = _warped(images, matrix, shift.T, _outside(limits))
    return _cut(changed, limits)


def affine(images: Array, matrix: Array, shift: Array, *, fill: Number) -> jax.Array:
    """Returns warped images: the pixel at o is that of the input at `matrix o + shift`.

    Both places are measured from the middle of the image.

    Args:
      images: [batch, height, width, channels] floats.
      matrix: [batch, 2, 2], acting on (row, column).
      shift: [batch, 2], in pixels.
      fill: Value of pixels outside the image, a scalar.

    Returns:
      Images of the same shape and dtype.

    Raises:
      ValueError: A shape is not as above, or the images are not floats.
    """
    images = as_array(images, name="images")
    _check_affine(images, matrix, shift)
    _checks.number("fill", fill)
    matrix, shift = _float(matrix), _float(shift)
    return _warped(widened(images), matrix, shift, fill).astype(images.dtype)


def _warped(images, matrix, shift, fill):
    middle = [(length - 1) / 2 for length in images.shape[1:3]]
    sides = (
        _float(jnp.arange(length)) - m for length, m in zip(images.shape[1:3], middle, strict=True)
    )
    rows, columns = (side[None] for side in jnp.meshgrid(*sides, indexing="ij"))
    entries, shift = matrix[..., None, None], shift[..., None, None]
    row, column = (
        entries[:, axis, 0] * rows + entries[:, axis, 1] * columns + shift[:, axis] + middle[axis]
        for axis in (0, 1)
    )
    return _interpolated(images, row, column, fill)


def _interpolated(images, row, column, fill):
    """Interpolates bilinearly between pixels; row and column are [batch, height, width]."""
    top, left = jnp.floor(row), jnp.floor(column)
    below, right = row - top, column - left
    corners = [
        (top, left, (1 - below) * (1 - right)),
        (top, left + 1, (1 - below) * right),
        (top + 1, left, below * (1 - right)),
        (top + 1, left + 1, below * right),
    ]
    return sum(weight[..., None] * _at(images, r, c, fill) for r, c, weight in corners)


def _at(images, row, column, fill):
    """Returns the pixels at whole rows and columns, `fill` outside of the image."""
    height, width = images.shape[1:3]
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = jnp.where(is_inside, row * width + column, 0).astype(jnp.int32)
    flat = images.reshape(len(images), height * width, images.shape[-1])
    taken = jax.vmap(lambda image, index: image[index])(flat, _sharding.of_examples(index, images))
    return jnp.where(is_inside[..., None], taken, jnp.asarray(fill, images.dtype))


# ---- what their values are


@_identity_at_zero
def random_brightness(
    key: jax.Array,
    images: Array,
    strength: Number,
    *,
    limits: Limits | None = _LIMITS,
    most: Number = 0.4,
) -> jax.Array:
    """Returns images whose distance from black, the lower limit, is multiplied by 1 + u.

    u is uniform within `s most`.

    Raises:
      ValueError: `limits` is None, for floats.
    """
    if limits is None:
        raise ValueError("`limits` must be given for brightness: black is the lower one, got None.")
    return _blended(key, images, strength, limits, most, limits[0])


@_identity_at_zero
def random_contrast(
    key: jax.Array,
    images: Array,
    strength: Number,
    *,
    limits: Limits | None = _LIMITS,
    most: Number = 0.4,
) -> jax.Array:
    """Returns images whose differences from their mean grey are multiplied by 1 + u.

    u is uniform within `s most`.
    """
    return _blended(key, images, strength, limits, most, _grey(images).mean((1, 2), keepdims=True))


@_identity_at_zero
def random_saturation(
    key: jax.Array,
    images: Array,
    strength: Number,
    *,
    limits: Limits | None = _LIMITS,
    most: Number = 0.4,
) -> jax.Array:
    """Returns images whose differences from each pixel's grey are multiplied by 1 + u.

    u is uniform within `s most`.
    """
    return _blended(key, images, strength, limits, most, _grey(images))


def _blended(key, images, strength, limits, most, origin):
    _checks.number("most", most, minimum=0, maximum=1)
    most = _float(most)
    u = jax.random.uniform(key, (len(images), 1, 1, 1), minval=-most, maxval=most)
    changed = images + (strength * u).astype(images.dtype) * (images - origin)
    return _cut(changed, limits)


def _grey(images):
    if images.shape[-1] == 1:
        return images
    return sum(weight * images[..., c : c + 1] for c, weight in enumerate(_GREY))


@_identity_at_zero
def random_erase(
    key: jax.Array,
    images: Array,
    strength: Number,
    *,
    limits: Limits | None = _LIMITS,
    most: Number = 0.5,
) -> jax.Array:
    """Returns images with a box set to the middle of `limits`, or 0 (Cutout, 1708.04552).

    Its sides are `s most` of the image's. Its centre is a random pixel, so a part of it may lie
    outside.
    """
    _checks.number("most", most, minimum=0, maximum=1)
    sides = strength * _float(most) * _float(images.shape[1:3])
    is_erased = _boxes(key, images, jnp.broadcast_to(sides[None], (len(images), 2)))
    return jnp.where(is_erased, _outside(limits), images)


def _boxes(key, images, sides):
    """Returns [batch, height, width, 1], true in boxes of `sides`, [batch, 2], placed at random."""
    size, sides = images.shape[1:3], jnp.round(sides)
    centres = jnp.floor(jax.random.uniform(key, (len(images), 2)) * _float(size)[None])
    starts = centres - jnp.floor(sides / 2)
    rows, columns = (
        (_float(jnp.arange(length))[None] >= starts[:, axis, None])
        & (_float(jnp.arange(length))[None] < (starts + sides)[:, axis, None])
        for axis, length in enumerate(size)
    )
    return (rows[:, :, None] & columns[:, None, :])[..., None]


# ---- several operations, and mixtures of examples


@_identity_at_zero
def random_mix(
    key: jax.Array,
    images: Array,
    strength: Number,
    *,
    limits: Limits | None = _LIMITS,
    number: int = 2,
) -> jax.Array:
    """Returns images after `number` operations each, drawn with replacement, all at strength s.

    Raises:
      ValueError: `limits` is None, for floats: brightness is one of the operations.

    Source: RandAugment (1909.13719), whose magnitude is the strength here.
    """
    _checks.whole_number("number", number, minimum=1, maximum=100)
    mixed: Any = images
    for own_key in jax.random.split(key, number):
        choice_key, *keys = jax.random.split(own_key, 1 + len(_DRAWN))
        choice = jax.random.randint(choice_key, (len(images), 1, 1, 1), 0, len(_DRAWN))
        results = [
            OPERATIONS[name](own, mixed, strength, limits=limits)
            for name, own in zip(_DRAWN, keys, strict=True)
        ]
        mixed = jnp.select([choice == place for place in range(len(_DRAWN))], results)
    return mixed


def mixup(
    key: jax.Array,
    images: Array,
    labels: Labels,
    strength: Number,
    *,
    alpha: Number = 0.2,
    mask: Array | None = None,
) -> tuple[jax.Array, Labels]:
    """Returns examples that are mixed with a share s b of another one.

    b = min(B, 1 - B) with B ~ Beta(alpha, alpha).

    Args:
      key: Random key; each example draws its own share.
      images: [batch, height, width, channels].
      labels: [batch, classes] probabilities, or a tree of floats [batch, ...], mixed likewise.
      strength: s, in [0, 1].
      alpha: A scalar above 0.
      mask: [batch]; an example with mask 0 is not part of any mixture.

    Returns:
      Images and labels.

    Raises:
      ValueError: Images, labels or a number are not as above.

    Source: Zhang et al., 1710.09412.
    """
    images, labels, strength = _checked_mixture(images, labels, strength)
    share = strength * _smaller_share(key, len(images), alpha, mask)
    mixed = _mixed(widened(images), share)
    mixed = jnp.round(mixed) if images.dtype == jnp.uint8 else mixed
    return _unless_zero(
        strength, (mixed.astype(images.dtype), _mixed_tree(labels, share)), images, labels
    )


def cutmix(
    key: jax.Array,
    images: Array,
    labels: Labels,
    strength: Number,
    *,
    alpha: Number = 1.0,
    mask: Array | None = None,
) -> tuple[jax.Array, Labels]:
    """Returns examples into which a rectangle of another one is pasted.

    Its area is s b of the image's, with b as in `mixup`. Its sides have the image's proportions and
    are rounded, and its centre is a pixel. The part that lies outside is cut off; the label is
    mixed by the share of the pixels that were pasted.

    Args:
      key, images, labels, strength, alpha, mask: As in `mixup`.

    Returns:
      Images and labels.

    Raises:
      ValueError: As in `mixup`.

    Source: Yun et al., 1905.04899.
    """
    images, labels, strength = _checked_mixture(images, labels, strength)
    box_key, share_key = jax.random.split(key)
    area = strength * _smaller_share(share_key, len(images), alpha, mask)
    sides = jnp.sqrt(area)[:, None] * _float(images.shape[1:3])[None]
    is_other = _boxes(box_key, images, sides)
    share = is_other.mean((1, 2, 3), dtype=jnp.float32)
    mixed = jnp.where(is_other, _others(images), images)
    return _unless_zero(strength, (mixed, _mixed_tree(labels, share)), images, labels)


def _smaller_share(key, number, alpha, mask):
    _checks.number("alpha", alpha, above=0)
    drawn = jax.random.beta(key, _float(alpha), _float(alpha), (number,))
    share = jnp.minimum(drawn, 1 - drawn)
    if mask is None:
        return share
    _checks.same_shape("mask", mask, (number,))
    is_real = as_array(mask, name="mask").astype(bool)
    return jnp.where(is_real & _others(is_real), share, 0)


def _others(examples):
    """Returns the partner of each example: the batch in reverse order."""
    return examples[::-1]


def _mixed(values, share):
    of_value = _on_axes_of(values, share).astype(values.dtype)
    return values + of_value * (_others(values) - values)


def _mixed_tree(labels, share):
    return jax.tree.map(lambda leaf: _mixed(widened(leaf), share).astype(leaf.dtype), labels)


def _unless_zero(strength, changed, *originals):
    is_on = strength > 0
    return jax.tree.map(lambda new, old: jnp.where(is_on, new, old), changed, originals)


def _probabilities(labels, num_classes):
    """Turns class indices into [batch, classes]; returns probabilities as they are."""
    labels = as_array(labels, name="label")
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return labels
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.ndim != 1:
        raise ValueError(
            "`label` must be class indices of shape [batch] or floats of shape [batch, ...], got "
            f"{labels.dtype} of shape {labels.shape}."
        )
    return jax.nn.one_hot(labels, num_classes)


# ---- checks


def _checked(given: Array, strength: Number) -> tuple[jax.Array, jax.Array]:
    _checks.number("strength", strength, minimum=0, maximum=1)
    images = as_array(given, name="images")
    is_known = images.dtype == jnp.uint8 or jnp.issubdtype(images.dtype, jnp.floating)
    is_image = images.ndim == 4 and images.shape[-1] in (1, 3) and 0 not in images.shape[1:]
    if not is_image or not is_known:
        raise ValueError(
            "`images` must be uint8 or floats of shape [batch, height, width, 1 or 3], got "
            f"{images.dtype} of shape {images.shape}."
        )
    return images, _float(strength)


def _checked_mixture(images: Array, labels: Labels, strength: Number) -> Any:
    images, strength = _checked(images, strength)
    labels = jax.tree.map(functools.partial(as_array, name="labels"), labels)
    for leaf in jax.tree.leaves(labels):
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        if not is_float or leaf.shape[:1] != images.shape[:1]:
            raise ValueError(
                f"`labels` must be floats of shape [{len(images)}, ...], such as probabilities, "
                f"got {leaf.dtype} of shape {leaf.shape}."
            )
    return images, labels, strength


def _check_limits(limits: Any) -> None:
    if limits is None:
        return
    if np.shape(limits) != (2,) or not np.isfinite(limits).all() or not limits[0] < limits[1]:
        given = _checks.in_one_line(limits)
        raise ValueError(f"`limits` must be two finite numbers that rise, or None, got {given}.")
    _checks.numbers("limits", limits)


def _check_affine(images: jax.Array, matrix: Array, shift: Array) -> None:
    found = [np.shape(array) for array in (images, matrix, shift)]
    number = found[0][:1]
    is_float = jnp.issubdtype(images.dtype, jnp.floating)
    if not is_float or len(found[0]) != 4 or found[1:] != [(*number, 2, 2), (*number, 2)]:
        raise ValueError(
            "`images`, `matrix` and `shift` must be floats of shape [batch, height, width, "
            f"channels], [batch, 2, 2] and [batch, 2], got {images.dtype} of shape "
            f"{found[0]}, {found[1]} and {found[2]}."
        )


OPERATIONS: dict[str, Callable[..., Any]] = {
    "crop": random_crop,
    "flip": random_flip,
    "affine": random_affine,
    "brightness": random_brightness,
    "contrast": random_contrast,
    "saturation": random_saturation,
    "erase": random_erase,
    "mix": random_mix,
}
_DRAWN = ("crop", "flip", "affine", "brightness", "contrast", "saturation", "erase")
MIXTURES: dict[str, Callable[..., tuple[jax.Array, jax.Array]]] = {
    "mixup": mixup,
    "cutmix": cutmix,
}
NAMES = (*OPERATIONS, *MIXTURES)
NEED_LIMITS = ("brightness", "mix")  # of floats; without limits nothing says which one is black
