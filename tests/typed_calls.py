"""Calls as other projects write them: tests/test_types.py checks their types and runs them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import cyclical_jax as cj
from cyclical_jax import averaging, finetuning


def calls() -> dict[str, Any]:
    """Returns all that these calls make."""
    params = {"head": jnp.ones((2, 3)), "body": jnp.ones((2, 2))}
    logits, labels, step = jnp.zeros((4, 10)), jnp.arange(4), jnp.int32(3)

    # One cycle for all.
    cycle = dict(total_steps=10_000, factor=4)
    optimizer = optax.chain(
        cj.clip_by_global_norm(cj.cyclical_schedule(0.5, 2.0, **cycle)),
        cj.add_decayed_weights(cj.cyclical_schedule(1e-5, 8e-5, **cycle)),
        optax.sgd(0.1, momentum=0.9),
    )
    loss: jax.Array = cj.cyclical_focal_loss(
        logits, labels, cj.hardness_schedule(**cycle)(step)
    ).mean()
    fractional = dict(total_steps=10_000, factor=2.5, num_cycles=3)
    values = cj.hardness_schedule(**fractional)(3), cj.cyclical_schedule(1, 2, **fractional)(3)

    both_ways = cj.hardness_schedule(9, shape=("rex", "early_rex"))(3)

    # The same by its hardness.
    hardness = cj.hardness_schedule(10_000, factor=4)
    shorter = optax.chain(
        cj.clip_by_global_norm(cj.between(0.5, 2.0, hardness)),
        cj.add_decayed_weights(cj.between(1e-5, 8e-5, hardness)),
        optax.sgd(0.1, momentum=0.9),
    )

    # Schedules of ours where Optax takes one, and of Optax where we do.
    decay = cj.cyclical_schedule(1e-5, 1e-3, 91, shape="cosine", num_cycles=2, scale="log")
    warm_up = optax.linear_schedule(0.0, 0.1, 10)
    rate = optax.join_schedules([warm_up, cj.cyclical_schedule(0.1, 0.5, 91)], boundaries=[10])
    adamw = optax.adamw(rate, weight_decay=decay)
    strengths: jax.Array = cj.between(1, jnp.float32(2), warm_up)(jnp.arange(3))
    number: float = float(cj.per_epoch(warm_up, np.int64(30))(3))
    whole = [cj.as_integer(2)(3), cj.as_integer(lambda count: 3.5)(3), cj.as_integer(rate)(3)]

    # Transformations of numbers and of schedules.
    mask = functools.partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
    pieces = optax.chain(
        cj.clip(lambda count: 0.1 + count),
        cj.adaptive_grad_clip(jnp.float32(0.1), eps=1e-3, axis=(0, 1)),
        cj.add_decayed_weights(np.float32(0.1), mask=mask),
        finetuning.scale_by_layer(
            cj.cyclical_schedule(0.0, 1.0, 9), finetuning.layers_by_name(params, ["head", ["body"]])
        ),
    )

    # A cyclical batch size.
    total_steps: int = cj.updates_of(150, lambda total: cj.cyclical_schedule(4, 1, total))
    same = [
        cj.updates_of(150, functools.partial(cj.cyclical_schedule, 4, 1)),
        cj.updates_of(150, cj.cyclical_schedule(4, 1, total_steps)),
    ]
    longer = cj.updates_of(150, 4)
    accumulating = cj.accumulate_gradients(pieces, cj.cyclical_schedule(4, 1, total_steps))
    state = accumulating.init(params)
    updates, state = accumulating.update(params, state, params)
    row: dict[str, jax.Array] = cj.current_values(state)
    count: jax.Array = cj.num_updates(state)
    average = averaging.moving_average(params, updates, 0.9, step=count, is_update=True)
    return locals()


def mistakes() -> None:
    """Nobody calls this; strict mypy wants every one of these comments."""
    cj.hardness_schedule(9, shape="sawtooth")  # type: ignore[call-overload]
    cj.hardness_schedule(9, shape=("rex", "cos"))  # type: ignore[arg-type]
    cj.cyclical_schedule(1, 2, total=9)  # type: ignore[call-overload]
    cj.cyclical_schedule(1, "2", 9)  # type: ignore[call-overload]
    cj.between(1, 2, 0.5)  # type: ignore[arg-type]
    cj.updates_of(150, "4")  # type: ignore[arg-type]
    cj.adaptive_grad_clip(0.1, axis=0.5)  # type: ignore[arg-type]
    cj.hardnes_schedule(9)  # type: ignore[attr-defined]
