"""One dense layer shared by overlapping patches: like a convolution, but a matrix product."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cyclical_jax import _checks
from cyclical_jax.models.classifier import Classifier


class PatchDense(Classifier):
    """A shared dense layer on patches, then an MLP on its outputs for all patches.

    [batch, height, width, channels] -> logits [batch, num_classes]. Height minus `patch_size` must
    be a multiple of `stride`, and width minus `patch_size` too, so that the patches reach every
    pixel. Its training needs matrix products but no convolution, which is slow in a loop on a CPU.

    Attributes beside those of `Classifier`:
      patch_size: Height and width of a patch, in pixels.
      stride: Distance between neighbouring patches, in pixels; below `patch_size` they overlap.
      channels: Width of the shared layer, whose kernel is [patch_size, patch_size, image channels,
        channels], like that of a convolution.
    """

    hidden_sizes: tuple[int, ...] = (256,)
    patch_size: int = 8
    stride: int = 4
    channels: int = 32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        patches = overlapping_patches(images, self.patch_size, self.stride)
        x = nn.DenseGeneral(self.channels, axis=(2, 4, 5), dtype=self.dtype)(patches)
        x = self.drop(self.activate(x, train), train)
        return self.classify(x.reshape(len(x), -1), train)


def overlapping_patches(images: jax.Array, patch_size: int, stride: int) -> jax.Array:
    """Returns all square patches at multiples of `stride`.

    Args:
      images: [batch, height, width, channels].
      patch_size: Height and width of a patch, in pixels.
      stride: Distance from a patch to the next, in pixels, at most `patch_size`.

    Returns:
      [batch, rows of patches, patch_size, columns of patches, patch_size, channels].

    Raises:
      ValueError: Patches of that size and stride leave pixels out.
    """
    _check_cover(images, patch_size, stride)
    # Slices, first of rows, are as fast as a gather, whose gradient would be a slow scatter.
    for axis in (1, 3):
        starts = range(0, images.shape[axis] - patch_size + 1, stride)
        slices = [jax.lax.slice_in_dim(images, s, s + patch_size, axis=axis) for s in starts]
        images = jnp.stack(slices, axis)
    return images


def _check_cover(images: jax.Array, patch_size: int, stride: int) -> None:
    _, height, width, _ = images.shape
    _checks.whole_number("patch_size", patch_size, minimum=1, maximum=min(height, width))
    _checks.whole_number("stride", stride, minimum=1, maximum=patch_size)
    if (height - patch_size) % stride or (width - patch_size) % stride:
        raise ValueError(
            f"Patches of `patch_size` {patch_size} and `stride` {stride} leave pixels out of "
            f"images of {height} x {width}: `stride` must divide a side less `patch_size`."
        )
