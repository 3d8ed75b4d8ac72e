"""TResNet-M, the network of the papers: Ridnik et al., 2003.13630.

A residual network with a space-to-depth stem, blurred (anti-aliased) downsampling, squeeze-excite,
and leaky ReLU within its blocks. BatchNorm and the activation are two layers here; the authors'
in-place layer computes both at once.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from cyclical_jax.models.classifier import dropped
from cyclical_jax.models.resnet import ConvNorm, skip_rates

_PATCH = 4  # side of the squares that the stem turns into channels, in pixels
_STEM_SLOPE, _BLOCK_SLOPE = 0.01, 0.001  # of the leaky ReLU below 0
_LEAST_SQUEEZED = 64  # channels
_STAGE_SIZES = (3, 4, 11, 3)


class TResNetM(nn.Module):
    """TResNet-M: [batch, height, width, channels] -> logits [batch, num_classes], float32.

    Height and width must be multiples of 4 and at least 20: the last blur mirrors at the border,
    which needs two pixels.

    Attributes:
      num_classes: Number of logits.
      stochastic_depth: As in `ResNet`.
      axis_name: As in `ResNet`.
      batch_norm_group: As in `ResNet`.
      dtype: Dtype of the computation. Parameters, BatchNorm's statistics and logits are float32.
    """

    num_classes: int
    stochastic_depth: ArrayLike = 0.0
    axis_name: str | None = None
    batch_norm_group: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        _check_size(images)
        conv_norm = partial(
            ConvNorm,
            axis_name=self.axis_name,
            batch_norm_group=self.batch_norm_group,
            dtype=self.dtype,
        )
        x = conv_norm(64, 3)(space_to_depth(images, _PATCH), train=train)
        x = nn.leaky_relu(x, _STEM_SLOPE)
        skips = skip_rates(self.stochastic_depth, sum(_STAGE_SIZES))
        for stage, size in enumerate(_STAGE_SIZES):
            for number in range(size):
                stride = 2 if stage > 0 and number == 0 else 1
                block = _basic if stage < 2 else _bottleneck
                excite = _squeeze_excite if stage < 3 else lambda x, divisor, dtype: x
                branch = block(x, 64 * 2**stage, stride, conv_norm, excite, train)
                shortcut = _shortcut(x, branch, conv_norm, train)
                if train:
                    branch = dropped(self, branch, next(skips), (len(branch), 1, 1, 1))
                x = nn.relu(branch + shortcut)
        features = x.mean((1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, dtype=jnp.float32)(features)


def _basic(x, width, stride, conv_norm, excite, train):
    x = _conv_and_blur(x, width, stride, conv_norm, train)
    return excite(conv_norm(width, 3, init_scale=0.0)(x, train=train), 4, x.dtype)


def _bottleneck(x, width, stride, conv_norm, excite, train):
    x = nn.leaky_relu(conv_norm(width, 1)(x, train=train), _BLOCK_SLOPE)
    x = excite(_conv_and_blur(x, width, stride, conv_norm, train), 2, x.dtype)
    return conv_norm(4 * width, 1, init_scale=0.0)(x, train=train)


def _conv_and_blur(x, width, stride, conv_norm, train):
    x = nn.leaky_relu(conv_norm(width, 3)(x, train=train), _BLOCK_SLOPE)
    return blur_pool(x) if stride == 2 else x


def _shortcut(x, branch, conv_norm, train):
    """Returns the input in the shape of the branch: 2x2 means, then a 1x1 convolution."""
    if x.shape == branch.shape:
        return x
    if x.shape[1:3] != branch.shape[1:3]:
        odd = [(0, side % 2) for side in x.shape[1:3]]
        x = nn.avg_pool(x, (2, 2), (2, 2), padding=odd, count_include_pad=False)
    return conv_norm(branch.shape[-1], 1)(x, train=train)


def _squeeze_excite(x, divisor, dtype):
    """Scales each channel by a number in [0, 1] computed from all channels' means (1709.01507)."""
    width = x.shape[-1]
    means = x.mean((1, 2), keepdims=True)
    squeezed = nn.relu(nn.Dense(max(width // divisor, _LEAST_SQUEEZED), dtype=dtype)(means))
    return x * nn.sigmoid(nn.Dense(width, dtype=dtype)(squeezed))


def space_to_depth(images: jax.Array, side: int) -> jax.Array:
    """Turns squares into channels: [b, h, w, c] -> [b, h / side, w / side, side * side * c]."""
    batch, height, width, channels = images.shape
    squares = images.reshape(batch, height // side, side, width // side, side, channels)
    return squares.swapaxes(2, 3).reshape(batch, height // side, width // side, -1)


def blur_pool(x: jax.Array) -> jax.Array:
    """Returns every other pixel after a blur by [1, 2, 1] / 4 both ways, mirrored at the border.

    [b, h, w, c] -> [b, ⌈h/2⌉, ⌈w/2⌉, c]. Source: Zhang, 1904.11486.
    """
    channels, line = x.shape[-1], np.array([0.25, 0.5, 0.25], np.float32)
    kernel = jnp.asarray(np.outer(line, line)[:, :, None, None], x.dtype)
    return jax.lax.conv_general_dilated(
        jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect"),
        jnp.tile(kernel, (1, 1, 1, channels)),
        window_strides=(2, 2),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


def _check_size(images) -> None:
    _, height, width, _ = images.shape
    if height % _PATCH or width % _PATCH or min(height, width) < 20:
        raise ValueError(
            f"tresnet_m takes images whose sides are multiples of {_PATCH}, at least 20, not "
            f"{height} x {width}."
        )
