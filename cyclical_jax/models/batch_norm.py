"""BatchNorm over all devices, or over groups of them."""

from typing import Any

import jax
from flax import linen as nn

from cyclical_jax import _checks


def batch_norm(
    train: bool, *, axis_name: str | None, group: int | None, **options: Any
) -> nn.BatchNorm:
    """Returns a BatchNorm layer whose statistics in training are those of a group of devices.

    The running statistics of a device move towards those of its group. A state keeps their mean
    over all devices: its mean is that of all examples; its variance lacks the variance between the
    means of the groups. Statistics of fewer examples are the "ghost batches" of Hoffer et al.,
    1705.08741.

    Args:
      train: True normalises by the batch, False by the running statistics.
      axis_name: Mapped axis of the devices; None outside of one.
      group: Number of devices, neighbours on that axis, that share their statistics; None is all.
      **options: Further attributes of `nn.BatchNorm`.

    Raises:
      ValueError: The devices do not divide into such groups.
    """
    groups = None
    if train and axis_name is not None and group is not None:
        number = jax.lax.psum(1, axis_name)  # a constant
        _checks.whole_number("batch_norm_group", group, minimum=1, maximum=number)
        if number % group:
            raise ValueError(f"`batch_norm_group` must divide the {number} devices, got {group}.")
        # Statistics of one device need no collective, those of all no groups.
        axis_name = axis_name if group > 1 else None
        if 1 < group < number:
            groups = [list(range(first, first + group)) for first in range(0, number, group)]
    return nn.BatchNorm(not train, axis_name=axis_name, axis_index_groups=groups, **options)
