"""Which examples make which batch: functions of (seed, epoch), so there is nothing to save."""

import numpy as np


def epoch_order(num_examples: int, batch_size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Indices of the examples of one epoch, shuffled; [steps, batch_size], int32.

    The examples that do not fill a batch are left out, others in every epoch.
    """
    order = np.random.default_rng((seed, epoch)).permutation(num_examples)
    num_steps = num_examples // batch_size
    return order[: num_steps * batch_size].reshape(num_steps, batch_size).astype(np.int32)


def padded_order(num_examples: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Every example exactly once, in order, for evaluation.

    Returns:
      Indices, [steps, batch_size], int32, and a mask of the same shape, float32, which is 0 where
      an index is padding.
    """
    num_steps = -(-num_examples // batch_size)
    indices = np.arange(num_steps * batch_size).reshape(num_steps, batch_size)
    mask = indices < num_examples
    return np.where(mask, indices, 0).astype(np.int32), mask.astype(np.float32)
