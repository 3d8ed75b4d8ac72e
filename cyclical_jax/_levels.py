"""The levels of quantized arrays, and the draws of stochastic rounding.

The formulas are at the top of `precision`. `x` is in at least float32, `bits` an int32 scalar, and
the range [lo, hi] broadcasts to `x`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax import _sharding

_TINY = float(np.finfo(np.float32).tiny)


# XLA makes a product of a quotient whose divisor is broadcast or constant, but not in all programs;
# and for a number halfway between two levels, as the largest symmetric one is, an ulp decides about
# a whole level. So both quantizers multiply by reciprocals.


def affine(x, bits, lo, hi, noise=0.0):
    """Returns `x` at 2^bits levels from lo to hi, both of them levels."""
    most = _power_of_two(bits) - 1
    scale = jnp.maximum((hi - lo) * (1 / most), _TINY)
    q = jnp.clip(jnp.round((x - lo) * (1 / scale) + noise), 0, most)
    return jnp.where(q == most, hi, q * scale + lo)  # a rounding of the end would move the range


def symmetric(x, bits, lo, hi, noise=0.0):
    """Returns `x` at 2^bits multiples of a scale, of which one more is below 0 than above."""
    half = _power_of_two(bits - 1)
    scale = jnp.maximum(jnp.maximum(-lo, hi) * (1 / (half - 0.5)), _TINY)
    return jnp.clip(jnp.round(x * (1 / scale) + noise), -half, half - 1) * scale


def _power_of_two(exponent: jax.Array) -> jax.Array:
    """Returns 2^exponent, exactly, which `jnp.exp2` does not."""
    return jax.lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)


def draws(key, x):
    """Returns noise within (-1/2, 1/2), symmetric about 0, for each entry of `x`.

    A draw is a hash of the key and of the position. On a CPU the draws of JAX's own generator take
    several times as long as all the rest, and rounding asks for little: draws that are even, and
    new for each key.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    mixed = _mixed(_positions(x) ^ first, 0x7FEB352D)
    mixed = _mixed(mixed ^ second, 0x846CA68B)
    return ((jax.lax.bitcast_convert_type(mixed, jnp.int32) >> 8).astype(x.dtype) + 0.5) / 2**24


def _mixed(bits, odd):
    """Returns 32 bits that change a lot with each of `bits`, one to one; `odd` is a number."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(odd)
    return bits ^ (bits >> 15)


def _positions(x):
    """Returns a number for each entry, spread over devices as `x` is.

    The multiples of 2^32 over the golden ratio are far apart where the entries are neighbours.
    """
    numbers = jax.lax.iota(jnp.uint32, x.size) * jnp.uint32(0x9E3779B9)
    return _sharding.spread_like(numbers.reshape(x.shape), x)
