"""Residual networks, for large images and for CIFAR's.

They follow He et al., 1512.03385, except that the stride of a bottleneck is at its 3x3 convolution,
and that the scale of each branch's last normalisation starts at 0 (Goyal et al., 1706.02677).
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from cyclical_jax import _checks
from cyclical_jax.models.batch_norm import batch_norm
from cyclical_jax.models.classifier import dropped

HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ConvNorm(nn.Module):
    """A convolution without bias, padded by half its kernel, and BatchNorm.

    Attributes:
      features: Channels of the result.
      kernel: Height and width of the kernel.
      stride: Distance from one place of the kernel to the next, in pixels.
      init_scale: Initial scale of the normalisation.
      axis_name, batch_norm_group, dtype: As in `ResNet`.
    """

    features: int
    kernel: int
    stride: int = 1
    init_scale: float = 1.0
    axis_name: str | None = None
    batch_norm_group: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            self.stride,
            padding=self.kernel // 2,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=HE_NORMAL,
        )(x)
        return batch_norm(
            train,
            axis_name=self.axis_name,
            group=self.batch_norm_group,
            momentum=0.9,
            scale_init=nn.initializers.constant(self.init_scale),
            dtype=self.dtype,
        )(x)


class ResNet(nn.Module):
    """A residual network: [batch, height, width, channels] -> logits [batch, num_classes], float32.

    Attributes:
      num_classes: Number of logits.
      stage_sizes: Blocks of each stage; each stage after the first halves height and width.
      stage_width: Channels of the first stage; each later stage doubles them. The result of a
        bottleneck has four times as many.
      is_bottleneck: True: a block is convolutions of 1x1, 3x3, 1x1. False: two of 3x3.
      is_for_small_images: True: the stem is one 3x3 convolution. False: it is a 7x7 convolution and
        a 3x3 maximum, each of stride 2.
      is_parameter_free: True: a shortcut to another shape takes every other pixel and adds channels
        of zeros (He et al.'s option A). False: it is a 1x1 convolution (option B).
      stochastic_depth: Probability with which, in training, an image skips the branch of the last
        block; for block l of L it is l / L times as large (Huang et al., 1603.09382). Branches that
        are not skipped are scaled to keep the mean. May be traced.
      axis_name: Mapped axis over which BatchNorm averages; None outside of one.
      batch_norm_group: Number of devices on that axis that share BatchNorm's statistics; None is
        all.
      dtype: Dtype of the computation. Parameters, BatchNorm's statistics and logits are float32.
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    stage_width: int = 64
    is_bottleneck: bool = False
    is_for_small_images: bool = False
    is_parameter_free: bool = False
    stochastic_depth: ArrayLike = 0.0
    axis_name: str | None = None
    batch_norm_group: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        conv_norm = partial(
            ConvNorm,
            axis_name=self.axis_name,
            batch_norm_group=self.batch_norm_group,
            dtype=self.dtype,
        )
        x = self._stem(images, conv_norm, train)
        skips = skip_rates(self.stochastic_depth, sum(self.stage_sizes))
        for stage, size in enumerate(self.stage_sizes):
            for block in range(size):
                stride = 2 if stage > 0 and block == 0 else 1
                width = self.stage_width * 2**stage
                x = self._block(x, width, stride, next(skips), conv_norm, train)
        # float32: a bfloat16 logit of 10 would be off by up to 0.03, and so would the loss.
        features = x.mean((1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, dtype=jnp.float32)(features)

    def _stem(self, x, conv_norm, train):
        if self.is_for_small_images:
            return nn.relu(conv_norm(self.stage_width, 3)(x, train=train))
        x = nn.relu(conv_norm(self.stage_width, 7, 2)(x, train=train))
        return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))

    def _block(self, x, width, stride, skip_rate, conv_norm, train):
        if self.is_bottleneck:
            y = nn.relu(conv_norm(width, 1)(x, train=train))
            y = nn.relu(conv_norm(width, 3, stride)(y, train=train))
            y = conv_norm(4 * width, 1, init_scale=0.0)(y, train=train)
        else:
            y = nn.relu(conv_norm(width, 3, stride)(x, train=train))
            y = conv_norm(width, 3, init_scale=0.0)(y, train=train)
        if x.shape == y.shape:
            shortcut = x
        elif self.is_parameter_free:
            shortcut = _subsampled(x, stride, y.shape[-1])
        else:
            shortcut = conv_norm(y.shape[-1], 1, stride)(x, train=train)
        if train:
            y = dropped(self, y, skip_rate, (len(y), 1, 1, 1))
        return nn.relu(y + shortcut)


def skip_rates(last: ArrayLike, number: int) -> Iterator[ArrayLike]:
    """Returns the rates of stochastic depth of `number` blocks, growing linearly to `last`."""
    _checks.number("stochastic_depth", last, minimum=0, maximum=1)
    return (last * (block + 1) / number for block in range(number))


def _subsampled(x, stride, features):
    """Returns every `stride`-th pixel, with channels of zeros added before and after its own."""
    more = features - x.shape[-1]
    padding = (0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)
    return jnp.pad(x[:, ::stride, ::stride], padding)


_Small = partial(ResNet, is_for_small_images=True)
RESNETS = {
    "resnet10": partial(ResNet, stage_sizes=(1, 1, 1, 1)),
    "resnet18": partial(ResNet, stage_sizes=(2, 2, 2, 2)),
    "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3), is_bottleneck=True),
    "resnet152": partial(ResNet, stage_sizes=(3, 8, 36, 3), is_bottleneck=True),
    "resnet18_cifar": partial(_Small, stage_sizes=(2, 2, 2, 2)),
    "resnet20_cifar": partial(
        _Small, stage_sizes=(3, 3, 3), stage_width=16, is_parameter_free=True
    ),
}
