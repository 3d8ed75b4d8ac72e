"""Augmentation against NumPy and SciPy, and what each operation must not change."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from cyclical_jax import augment as au

KEY = jax.random.key(7)
KEYS = jax.random.split(KEY, 8)


def images(shape=(6, 8, 8, 3), dtype=np.float32, seed=0):
    if dtype == np.uint8:
        return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    x = np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
    return jnp.asarray(x, dtype)


def probabilities(number, classes=4, seed=1):
    y = np.random.default_rng(seed).dirichlet(np.ones(classes), number)
    return jnp.asarray(y, jnp.float32)


def apply(name, x, strength, key=KEY, **options):
    """Applies the operation of that name and returns the images without labels."""
    if name in au.MIXTURES:
        return au.MIXTURES[name](key, x, probabilities(len(x)), strength, **options)[0]
    return au.OPERATIONS[name](key, x, strength, **options)


run = jax.jit(apply, static_argnames="name")  # one compilation for all tests of a name and shape
X = images((32, 8, 8, 3))


# ---- what all have in common


@pytest.mark.parametrize(
    "x",
    [images((32, 8, 8, 3), np.uint8), images((5, 7, 10, 1), jnp.bfloat16), X],
    ids=["bytes", "grey", "floats"],
)
@pytest.mark.parametrize("name", au.NAMES)
def test_at_strength_0_nothing_changes_and_at_1_something_does(name, x):
    same, changed = run(name, x, 0.0), run(name, x, 1.0)
    assert same.dtype == x.dtype and np.asarray(same).tobytes() == np.asarray(x).tobytes()
    assert changed.shape == x.shape and changed.dtype == x.dtype
    is_grey = name == "saturation" and x.shape[-1] == 1
    assert bool((changed == x).all()) == is_grey


@pytest.mark.parametrize("name", au.NAMES)
def test_a_negative_zero_stays_one(name):
    assert np.signbit(run(name, jnp.full_like(X, -0.0), 0.0)).all()


@pytest.mark.parametrize("name", au.NAMES)
def test_the_strength_is_traced_and_the_key_decides(name, count_compilations):
    one, again, other = (run(name, X, 0.9, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    with count_compilations() as compilations:
        for strength in (0.0, 0.3, 1.0):
            run(name, X, strength, KEY)
    assert not compilations


@pytest.mark.parametrize("name", au.NAMES)
def test_what_comes_out_is_within_the_limits(name):
    found = run(name, X, 1.0)
    assert np.isfinite(found).all() and (jnp.abs(found) <= 1).all()


@pytest.mark.parametrize("name", au.NAMES)
def test_a_stronger_one_changes_more(name):
    smooth = scipy.ndimage.zoom(images((32, 2, 2, 3)), (1, 4, 4, 1), order=1)
    changes = [
        np.mean([float(jnp.abs(run(name, smooth, s, key) - smooth).mean()) for key in KEYS])
        for s in (0.0, 0.25, 0.5, 1.0)
    ]
    assert changes[0] == 0 and changes == sorted(changes) and changes[3] > 1.3 * changes[1]


@pytest.mark.parametrize("name", au.OPERATIONS)
def test_bytes_are_the_rounded_floats(name):
    x = images((32, 8, 8, 3), np.uint8)
    as_floats = jax.jit(lambda x: apply(name, x, 0.7, limits=(0.0, 255.0)))(x.astype(np.float32))
    difference = np.asarray(run(name, x, 0.7), int) - np.round(as_floats)
    # Another program may round a half to the other side.
    assert np.abs(difference).max() <= 1 and (difference == 0).mean() > 0.99


@pytest.mark.parametrize("name", au.OPERATIONS)
def test_every_example_draws_for_itself(name):
    found = np.asarray(run(name, jnp.repeat(X[:1], 32, 0), 1.0))
    assert len(np.unique(found.reshape(32, -1), axis=0)) > 1


def test_it_runs_in_a_loop_under_vmap_and_on_two_devices():
    transform = au.augment(["crop", "affine", "mixup"], num_classes=4)
    batch = {"image": images((4, 8, 8, 3)), "label": jnp.array([0, 1, 2, 3])}
    keys = jax.random.split(KEY, 2)

    def image(key):
        return transform(batch, key, 0.5)["image"]

    one_by_one = [jax.jit(image)(key) for key in keys]
    scanned = jax.jit(lambda keys: jax.lax.map(image, keys))
    for found in (jax.jit(jax.vmap(image))(keys), jax.pmap(image)(keys), scanned(keys)):
        np.testing.assert_allclose(found, one_by_one, atol=1e-5)


# ---- where the pixels are


@pytest.mark.parametrize("strength, reach", [(0.25, (1, 1)), (0.5, (2, 2)), (1.0, (4, 3))])
def test_a_crop_is_a_window_of_the_padded_image(strength, reach):
    x = images((400, 8, 6, 3))
    found = np.asarray(au.random_crop(KEY, x, strength, most=0.5))
    padded = np.pad(x, ((0, 0), (4, 4), (3, 3), (0, 0)))
    moves = set()
    for padded_image, image in zip(padded, found, strict=True):
        windows = {
            (row, column): padded_image[4 + row : 12 + row, 3 + column : 9 + column]
            for row in range(-4, 5)
            for column in range(-3, 4)
        }
        (move,) = [place for place, window in windows.items() if (window == image).all()]
        moves.add(move)
    rows, columns = (range(-most, most + 1) for most in reach)
    everywhere = {(row, column) for row in rows for column in columns}
    assert moves <= everywhere and len(moves) > 0.9 * len(everywhere)


def test_the_border_is_the_middle_of_the_limits():
    dark = np.zeros((50, 8, 8, 1), np.uint8)
    assert set(np.unique(au.random_crop(KEY, dark, 1.0))) == {0, 128}
    assert set(np.unique(au.random_crop(KEY, dark + 0.5, 1.0, limits=(0.0, 1.0)))) == {0.5}


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_half_of_the_strength_are_flipped(strength):
    x = np.asarray(images((2000, 2, 3, 1)))
    found = np.asarray(au.random_flip(KEY, x, strength))
    is_flipped = (found == x[:, :, ::-1]).all((1, 2, 3))
    assert (is_flipped | (found == x).all((1, 2, 3))).all()
    assert is_flipped.mean() == pytest.approx(strength / 2, abs=0.04)


def rotation(degrees):
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("shape", [(3, 9, 9, 3), (3, 8, 12, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_a_warp_is_scipys(shape, seed):
    x, rng = np.asarray(images(shape)), np.random.default_rng(seed)
    matrix = rng.normal(size=(3, 2, 2)) * 0.4 + np.eye(2)
    shift = rng.normal(size=(3, 2)) * 2
    found = au.affine(
        x, jnp.asarray(matrix, jnp.float32), jnp.asarray(shift, jnp.float32), fill=0.3
    )
    middle = (np.array(shape[1:3]) - 1) / 2
    for number in range(3):
        offset = shift[number] + middle - matrix[number] @ middle
        for channel in range(shape[-1]):
            expected = scipy.ndimage.affine_transform(
                x[number, ..., channel].astype(np.float64),
                matrix[number],
                offset,
                order=1,
                mode="grid-constant",
                cval=0.3,
            )
            np.testing.assert_allclose(found[number, ..., channel], expected, atol=2e-5)


def test_a_quarter_turn_and_a_step_aside():
    x = images((1, 5, 5, 3))
    turned = au.affine(x, jnp.asarray(rotation(90), jnp.float32)[None], jnp.zeros((1, 2)), fill=0)
    np.testing.assert_allclose(turned[0], np.rot90(x[0], -1), atol=1e-5)
    moved = au.affine(x, jnp.eye(2)[None], jnp.array([[1.0, -2.0]]), fill=0)
    np.testing.assert_allclose(moved[0, :-1, 2:], x[0, 1:, :-2], atol=1e-6)
    assert (moved[0, -1] == 0).all() and (moved[0, :, :2] == 0).all()


def moments(image):
    """Returns the centre of mass, and the angle of the longer axis in degrees."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    mass = image.sum()
    r, c = (rows * image).sum() / mass, (columns * image).sum() / mass
    rr, cc, rc = (
        ((rows - r) ** 2 * image).sum(),
        ((columns - c) ** 2 * image).sum(),
        ((rows - r) * (columns - c) * image).sum(),
    )
    return (r, c), np.rad2deg(0.5 * np.arctan2(2 * rc, cc - rr))


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_the_ranges_of_a_random_warp(strength):
    bar = np.zeros((500, 41, 41, 1), np.float32)
    bar[:, 18:23, 8:33] = 1
    options = dict(limits=(-1.0, 1.0), rotation=40.0)
    turned = au.random_affine(KEY, bar, strength, **options, translation=0.0, shear=0.0)
    angles = np.array([moments(image[..., 0])[1] for image in np.asarray(turned)])
    assert np.abs(angles).max() == pytest.approx(40 * strength, rel=0.05)
    assert abs(angles.mean()) < 5 * strength
    moved = au.random_affine(KEY, bar, strength, rotation=0.0, translation=0.15, shear=0.0)
    centres = np.array([moments(image[..., 0])[0] for image in np.asarray(moved)]) - 20
    assert np.abs(centres).max() == pytest.approx(0.15 * 41 * strength, rel=0.05)


# ---- what their values are


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_brightness_is_one_factor_an_image(strength):
    x = np.asarray(images((300, 4, 4, 3))) * 0.5 - 0.5  # -1 .. 0: nothing is cut
    factors = (np.asarray(au.random_brightness(KEY, x, strength)) + 1) / (x + 1)
    assert np.ptp(factors, axis=(1, 2, 3)).max() < 1e-3
    of_image = factors.mean((1, 2, 3))
    assert 1 - of_image.min() == pytest.approx(0.4 * strength, rel=0.05)
    assert of_image.max() - 1 == pytest.approx(0.4 * strength, rel=0.05)


def luma(x):
    return x @ np.array([0.299, 0.587, 0.114]) if x.shape[-1] == 3 else x[..., 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_keeps_the_mean_grey_and_scales_differences(channels):
    x = np.asarray(images((200, 4, 4, channels))) * 0.4
    found = np.asarray(au.random_contrast(KEY, x, 1.0))
    np.testing.assert_allclose(luma(found).mean((1, 2)), luma(x).mean((1, 2)), atol=1e-5)
    factors = luma(found).std((1, 2)) / luma(x).std((1, 2))
    assert (factors.min(), factors.max()) == (
        pytest.approx(0.6, abs=0.02),
        pytest.approx(1.4, abs=0.02),
    )


def test_saturation_keeps_the_grey_of_every_pixel():
    x = np.asarray(images((200, 4, 4, 3))) * 0.3
    found = np.asarray(au.random_saturation(KEY, x, 1.0))
    np.testing.assert_allclose(luma(found), luma(x), atol=1e-5)
    colours = [np.abs(y - luma(y)[..., None]).sum((1, 2, 3)) for y in (found, x)]
    factors = colours[0] / colours[1]
    assert factors.min() < 0.63 and factors.max() > 1.37


@pytest.mark.parametrize("strength, side", [(1.0, 10), (0.5, 5), (0.1, 1)])
def test_a_square_is_erased_around_a_pixel(strength, side):
    x = np.full((500, 20, 20, 3), 0.9, np.float32)
    is_erased = np.asarray(au.random_erase(KEY, x, strength))[..., 0] == 0
    whole = [mask for mask in is_erased if mask.any() and not mask[[0, -1]].any()]
    for mask in is_erased:
        rows, columns = mask.any(1), mask.any(0)
        np.testing.assert_array_equal(mask, rows[:, None] & columns[None])
        assert 1 <= rows.sum() <= side and 1 <= columns.sum() <= side
    inner = {mask.any(1).sum() for mask in whole}
    assert inner == {side}
    assert is_erased.any(0).all() or side == 1  # somewhere, everywhere
    assert not (au.random_erase(KEY, x, 0.01) == 0).any()


# ---- mixtures


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_mixup_mixes_images_as_labels(strength):
    x, y = images((64, 4, 4, 3)), jnp.eye(64)
    mixed, labels = au.mixup(KEY, x, y, strength, alpha=1.0)
    share = np.array([labels[row, 63 - row] for row in range(64)])
    np.testing.assert_allclose(np.diag(labels), 1 - share, atol=1e-6)
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    wide = share[:, None, None, None]
    np.testing.assert_allclose(mixed, (1 - wide) * x + wide * x[::-1], atol=1e-6)
    assert 0 < share.min() and strength / 2 > share.max() > 0.45 * strength
    assert len(set(share)) == 64


def test_the_shares_of_mixup_are_of_the_beta_distribution():
    y = jnp.tile(jnp.eye(2), (5000, 1))
    _, labels = au.mixup(KEY, jnp.zeros((10_000, 1, 1, 1)), y, 1.0, alpha=0.4)
    share = np.asarray(labels.min(1))
    drawn = np.random.default_rng(0).beta(0.4, 0.4, 10_000)
    expected = np.minimum(drawn, 1 - drawn)
    for level in (0.1, 0.5, 0.9):
        assert np.quantile(share, level) == pytest.approx(np.quantile(expected, level), abs=0.015)


def test_cutmix_labels_are_the_shares_of_the_pixels():
    number = 200
    x = jnp.broadcast_to(jnp.arange(number)[:, None, None, None] / number, (number, 9, 14, 1))
    mixed, labels = au.cutmix(KEY, x, jnp.eye(number), 1.0)
    is_other = np.asarray(mixed != x)[..., 0]
    share = is_other.mean((1, 2))
    partner = np.arange(number)[::-1]
    np.testing.assert_allclose(labels[np.arange(number), partner], share, atol=1e-6)
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    for mask in is_other:
        np.testing.assert_array_equal(mask, mask.any(1)[:, None] & mask.any(0)[None])
    assert share.max() <= 0.5 + 0.15 and share.mean() > 0.1


@pytest.mark.parametrize("name", au.MIXTURES)
def test_a_tree_of_labels_is_mixed_by_the_same_shares(name):
    number = 9
    weight, ranks = jnp.arange(1.0, 10), jnp.arange(18.0).reshape(9, 2)
    tree = {"label": jnp.eye(number), "weight": weight, "ranks": ranks.astype(jnp.bfloat16)}
    _, mixed = au.MIXTURES[name](KEY, images((number, 8, 8, 3)), tree, 1.0)
    np.testing.assert_allclose(mixed["weight"], mixed["label"] @ weight, rtol=1e-5)
    assert mixed["ranks"].dtype == jnp.bfloat16
    np.testing.assert_allclose(
        mixed["ranks"].astype(float), mixed["label"] @ ranks, rtol=2e-2, atol=0.1
    )


@pytest.mark.parametrize("name", au.MIXTURES)
def test_nothing_is_mixed_with_what_is_masked(name):
    x, y, mask = images((6, 8, 8, 3)), jnp.eye(6), jnp.array([1.0, 0, 1, 1, 1, 1])
    mixed, labels = au.MIXTURES[name](KEY, x, y, 1.0, mask=mask)
    for alone in (1, 4):  # the padding and its partner
        np.testing.assert_array_equal(mixed[alone], x[alone])
        np.testing.assert_array_equal(labels[alone], y[alone])
    assert (labels != y).any(-1).sum() >= 2


def test_a_batch_is_mixed_with_all_that_belongs_to_its_examples():
    batch = {
        "image": images((4, 8, 8, 3)),
        "label": jnp.array([0, 1, 2, 3]),
        "weight": jnp.array([1.0, 2.0, 3.0, 4.0]),
        "mask": jnp.array([1.0, 0.0, 1.0, 1.0]),
        "index": jnp.arange(4),
    }
    mixed = au.augment(["mixup"], num_classes=4)(batch, KEY, 1.0)
    np.testing.assert_allclose(mixed["weight"], mixed["label"] @ batch["weight"], rtol=1e-5)
    assert (mixed["label"][0] > 0).sum() == 2 and (mixed["label"][2] > 0).sum() == 1
    np.testing.assert_array_equal(mixed["index"], batch["index"])
    np.testing.assert_array_equal(mixed["mask"], batch["mask"])


def test_the_caller_names_what_is_mixed_as_the_labels_are():
    ones = jnp.arange(1.0, 5)
    batch = {"image": images((4, 8, 8, 3)), "label": jnp.arange(4), "weight": ones, "score": ones}
    found = {
        names: au.augment(["cutmix"], num_classes=4, mixed=names)(batch, KEY, 1.0)
        for names in [("weight", "score"), ("score", "absent"), ()]
    }
    for names, mixed in found.items():
        np.testing.assert_array_equal(mixed["label"], found[()]["label"])
        assert mixed.keys() == batch.keys()
        for name in ("weight", "score"):
            expected = mixed["label"] @ ones if name in names else ones
            np.testing.assert_allclose(mixed[name], expected, rtol=1e-5)


def test_an_operation_may_be_ones_own():
    batch = {"image": images((16, 8, 8, 3))}
    small = functools.partial(au.random_erase, most=0.25)
    changed = au.augment([small])(batch, KEY, 1.0)["image"]
    assert 0 < (changed == 0).all(-1).sum((1, 2)).max() <= 4
    wide = {"image": 100 * batch["image"]}
    kept = au.augment(["flip"], limits=(-100.0, 100.0))(wide, KEY, 1.0)["image"]
    assert jnp.abs(kept).max() > 90


@pytest.mark.parametrize("name", au.MIXTURES)
def test_at_strength_0_labels_stay_too(name):
    y = probabilities(6)
    _, labels = au.MIXTURES[name](KEY, images(), y, jnp.float32(0))
    assert np.asarray(labels).tobytes() == np.asarray(y).tobytes()


def test_a_mix_draws_one_operation_or_several_for_each_example():
    x = 0.9 * np.asarray(images((4000, 4, 4, 3)))
    x = x + np.arange(4)[None, None, :, None] * 0.01  # nothing is its own mirror
    flipped = [
        (np.abs(np.asarray(au.random_mix(KEY, x, 1.0, number=number)) - x[:, :, ::-1]) < 1e-6)
        .all((1, 2, 3))
        .mean()
        for number in (1, 2)
    ]
    assert flipped[0] == pytest.approx(1 / 14, abs=0.015)
    assert flipped[1] < 0.6 * flipped[0]


# ---- images of any range


STANDARDISED = 2.5 * images((64, 8, 8, 3), seed=3)  # beyond the default limits on both sides


@pytest.mark.parametrize("limits", [(-1.0, 1.0), None], ids=str)
@pytest.mark.parametrize("name", ["crop", "flip", "erase", "mixup", "cutmix"])
def test_what_makes_no_new_values_cuts_none(name, limits):
    options = {} if name in au.MIXTURES else {"limits": limits}
    found = jax.jit(functools.partial(apply, name, **options))(STANDARDISED, 1.0)
    assert jnp.abs(found).max() > 2.4
    if name in ("crop", "flip", "erase"):
        assert set(np.unique(found)) <= {*np.unique(STANDARDISED), 0.0}


@pytest.mark.parametrize("name", ["affine", "brightness", "contrast", "saturation", "mix"])
def test_new_values_stay_within_limits_that_hold(name):
    within = jax.jit(functools.partial(apply, name, limits=(-2.5, 2.5)))(STANDARDISED, 1.0)
    assert 2.4 < jnp.abs(within).max() <= 2.5


@pytest.mark.parametrize("name", ["affine", "contrast", "saturation"])
def test_without_limits_a_scaled_image_is_scaled(name):
    """Nothing is cut and nothing depends on a range: the operation is linear."""
    run = jax.jit(functools.partial(apply, name, limits=None))
    np.testing.assert_allclose(
        run(10 * STANDARDISED, 0.8), 10 * run(STANDARDISED, 0.8), rtol=1e-5, atol=1e-4
    )


def test_black_stays_black():
    x = jnp.stack([jnp.full((4, 4, 1), value) for value in (-1.0, 0.5)])
    found = au.random_brightness(KEY, x, 1.0)
    np.testing.assert_array_equal(found[0], x[0])
    assert (found[1] != x[1]).all()


@pytest.mark.parametrize("name", ["brightness", "mix"])
def test_brightness_needs_to_know_black(name):
    with pytest.raises(ValueError, match="`limits` must be given for brightness"):
        apply(name, STANDARDISED, 1.0, limits=None)
    as_bytes = images((2, 4, 4, 3), np.uint8)  # they have their own
    jax.eval_shape(lambda: apply(name, as_bytes, 1.0, limits=None))


# ---- arrays of other kinds


@pytest.mark.parametrize("name", au.NAMES)
def test_a_key_of_the_old_style_no_images_and_lists_are_taken(name):
    few = np.asarray(X[:2]).tolist()
    for key, x, number in [(jax.random.PRNGKey(3), X, 32), (KEY, X[:0], 0), (KEY, few, 2)]:
        found = jax.eval_shape(lambda key, x=x: apply(name, x, np.float64(0.5), key), key)
        assert (found.shape, found.dtype) == ((number, 8, 8, 3), np.float32)


def test_mixtures_take_numpys_numbers_and_masks_of_any_dtype():
    weight, mask = np.linspace(0, 1, 6), np.array([True, False, True, True, True, True])
    batch = {"image": np.asarray(images()), "label": [0, 1, 2, 0, 1, 2], "weight": weight}
    transform = au.augment(["mixup"], num_classes=3)
    found = transform(batch | {"mask": mask}, KEY, 1.0)
    expected = transform(batch | {"mask": mask.astype(np.float32)}, KEY, 1.0)
    for name in ("image", "label", "weight"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_array_equal(
        np.asarray(found["weight"])[[1, 4]], weight[[1, 4]].astype(np.float32)
    )


# ---- transforms


def test_a_transform_applies_its_operations_in_their_order():
    x = images((8, 8, 8, 3))
    batch = {"image": x, "label": jnp.arange(8) % 3, "mask": jnp.ones(8)}
    found = au.augment(["flip", "crop"])(batch, KEY, 1.0)
    first, second = jax.random.split(KEY)
    expected = au.random_crop(second, au.random_flip(first, x, 1.0), 1.0)
    np.testing.assert_array_equal(found["image"], expected)
    assert found["label"] is batch["label"] and found["mask"] is batch["mask"]
    assert au.augment([])(batch, KEY, 1.0) == batch


@pytest.mark.parametrize("name", au.MIXTURES)
def test_class_indices_become_probabilities_at_every_strength(name):
    batch = {"image": images(), "label": jnp.array([0, 2, 1, 1, 0, 2])}
    transform = jax.jit(au.augment([name], num_classes=3))
    np.testing.assert_array_equal(
        transform(batch, KEY, 0.0)["label"], np.eye(3, dtype=np.float32)[batch["label"]]
    )
    labels = transform(batch, KEY, 1.0)["label"]
    assert labels.shape == (6, 3) and ((labels > 0).sum(1) >= 1).all()


@pytest.mark.parametrize(
    "call, line",
    [
        (lambda: au.augment(["flp"]), "Did you mean 'flip'?"),
        (lambda: au.augment(["mixup"]), "`num_classes` must be given for mixup and cutmix, got No"),
        (
            lambda: apply("crop", images(), 1.5),
            "`strength` must be at least 0 and at most 1, got 1",
        ),
        (
            lambda: apply("crop", images(), np.ones(6)),
            "`strength` must be a scalar, got shape (6,)",
        ),
        (lambda: apply("crop", images(), 1.0, most=2), "`most` must be at least 0 and at most 1"),
        (lambda: apply("affine", images(), 1.0, rotation=181), "`rotation` must be at least 0 and"),
        (lambda: apply("mixup", images(), 1.0, alpha=0), "`alpha` must be above 0, got 0."),
        (lambda: apply("erase", images(), 1.0, most=2), "`most` must be at least 0 and at most 1"),
        (lambda: apply("mix", images(), 1.0, number=0), "`number` must be a whole number from 1"),
        (lambda: apply("flip", images()[0], 1.0), "`images` must be uint8 or floats of shape"),
        (lambda: apply("flip", images((2, 8, 8, 4)), 1.0), "got float32 of shape (2, 8, 8, 4)."),
        (lambda: apply("flip", np.zeros((2, 8, 8, 1), int), 1.0), "got int"),
        (
            lambda: au.augment(["flip"], limits=(1.0, -1.0)),
            "`limits` must be two finite numbers that rise, or None, got (1.0, -1.0).",
        ),
        (lambda: apply("flip", images(), 1.0, limits=(0, np.inf)), "two finite numbers that rise"),
        (lambda: apply("flip", images(), 1.0, limits=3.0), "that rise, or None, got 3.0."),
        (
            lambda: au.affine(images(), np.zeros((6, 2)), np.zeros((6, 2)), fill=0),
            "got float32 of shape (6, 8, 8, 3), (6, 2) and (6, 2).",
        ),
        (
            lambda: au.affine(images().astype(int), np.zeros((6, 2, 2)), np.zeros((6, 2)), fill=0),
            "`images`, `matrix` and `shift` must be floats of shape [batch,",
        ),
        (lambda: au.augment("crop"), "`operations` must be a list, say ['crop'], got 'crop'."),
        (
            lambda: au.augment(["flip"], mixed="weight"),
            "`mixed` must be a list, say ['weight'], got 'weight'.",
        ),
        (lambda: apply("mixup", images(), 1.5), "`strength` must be at least 0 and at most 1"),
        (lambda: apply("cutmix", images()[0], 1.0), "`images` must be uint8 or floats of shape"),
        (
            lambda: au.mixup(KEY, images(), jnp.arange(6), 1.0),
            "`labels` must be floats of shape [6, ...], such as probabilities, got int32 of shape",
        ),
        (
            lambda: au.cutmix(KEY, images(), probabilities(5), 1.0),
            "such as probabilities, got float32 of shape (5, 4).",
        ),
    ],
)
def test_what_cannot_be_is_one_line(call, line):
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        call()
    assert "\n" not in str(error.value)
