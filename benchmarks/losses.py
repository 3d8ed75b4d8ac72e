"""Cyclical focal loss, forward and backward, beside Optax's cross entropy and the published code.

    pip install torch                     # a benchmark-only extra
    python -m benchmarks.losses

It uses float32 and one core; gammas and hardness are traced. JAX computes in the calling thread, as
torch does: each call is waited for, and handing it to another thread takes longer than [128, 10].
"""

from benchmarks import interleaved

interleaved.pin_to_one_core()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import torch  # noqa: E402

import cyclical_jax as cj  # noqa: E402
from benchmarks import published  # noqa: E402

jax.config.update("jax_cpu_enable_async_dispatch", False)

SHAPES = [(128, 10), (1024, 10), (1024, 1000), (256, 21841)]
HARDNESS = 0.4
GAMMAS = published.GAMMA_HC, published.GAMMA_POS, published.GAMMA_NEG


def main():
    print(f"jax {jax.__version__}, optax {optax.__version__}, torch {torch.__version__}, one core")
    print(f"{'shape':>14} {'ours':>10} {'torch / ours':>13} {'ours / smoothed optax':>22}")
    for shape in SHAPES:
        seconds = interleaved.time_interleaved(_candidates(*shape))
        print(
            f"{str(list(shape)):>14} {interleaved.median_microseconds(seconds, 'ours'):>7.0f} us"
            f" {interleaved.ratio(seconds, 'published', 'ours'):>12.1f}x"
            f" {interleaved.ratio(seconds, 'ours', 'optax'):>21.2f}x",
            flush=True,
        )


def _candidates(batch, classes):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=(batch, classes)).astype(np.float32)
    labels = rng.integers(0, classes, batch)
    return {
        "ours": _jax_call(_ours, logits, labels),
        "optax": _jax_call(_optax, logits, labels),
        "published": _torch_call(logits, labels),
    }


def _ours(logits, labels, hardness, gamma_hc, gamma_pos, gamma_neg):
    gammas = dict(gamma_hc=gamma_hc, gamma_pos=gamma_pos, gamma_neg=gamma_neg)
    loss = cj.cyclical_focal_loss(
        logits, labels, hardness, label_smoothing=published.SMOOTHING, **gammas
    )
    return loss.mean()


def _optax(logits, labels, *_):
    smoothed = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), published.SMOOTHING)
    return optax.softmax_cross_entropy(logits, smoothed).mean()


def _jax_call(loss, logits, labels):
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    knobs = [jnp.float32(knob) for knob in (HARDNESS, *GAMMAS)]
    step = jax.jit(jax.value_and_grad(loss))
    return lambda: jax.block_until_ready(step(logits, labels, *knobs))


def _torch_call(logits, labels):
    logits, labels = torch.tensor(logits, requires_grad=True), torch.tensor(labels)

    def call():
        logits.grad = None
        loss = published.cyclical_focal_loss(logits, labels, HARDNESS)
        loss.backward()
        return loss

    return call


if __name__ == "__main__":
    main()
