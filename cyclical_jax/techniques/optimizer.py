"""The optimizer: clipping, Adam, weight decay and momentum.

As in SGD and AdamW of Optax, the decay is multiplied by the learning rate. Biases and the
parameters of normalisation layers do not decay.
"""

import jax
import optax

from cyclical_jax import transforms
from cyclical_jax.training.fields import constant, flag, knob, one_of, or_none
from cyclical_jax.training.technique import Part, Place, Site, Technique

NAME, NESTEROV = "optimizer.name", "optimizer.nesterov"
OPTIONS = {"sgd": ("momentum", "nesterov"), "adamw": ("b1", "b2", "eps")}

KEYS = {
    NAME: one_of("sgd", tuple(OPTIONS), "optimizer: SGD with momentum, or AdamW"),
    "optimizer.weight_decay": or_none(
        knob(
            1e-3,
            "weight decay, times the learning rate; biases and normalisations do not decay",
            minimum=0,
        )
    ),
    "optimizer.max_norm": or_none(
        knob(None, "largest norm of the whole gradient, which is scaled down to it", minimum=0)
    ),
    "optimizer.max_delta": or_none(
        knob(None, "largest size of an entry of the gradient, which is cut to it", minimum=0)
    ),
    "optimizer.clipping": or_none(
        knob(
            None,
            "largest norm of a unit's gradient, as a multiple of the norm of its parameters "
            "(adaptive clipping)",
            minimum=0,
        )
    ),
    "optimizer.momentum": knob(0.9, "momentum, for sgd", minimum=0, maximum=1),
    NESTEROV: flag(True, "Nesterov's momentum, for sgd"),
    # Adam corrects its averages for their start by the decay in force: a cycle would not cancel.
    "optimizer.b1": constant(
        0.9, "decay, per update, of adamw's mean of the gradient", minimum=0, below=1
    ),
    "optimizer.b2": constant(
        0.999, "decay, per update, of adamw's mean of the squared gradient", minimum=0, below=1
    ),
    "optimizer.eps": knob(1e-8, "small number that keeps adamw from dividing by zero", above=0),
}
_CLIPS = {
    "optimizer.max_norm": transforms.clip_by_global_norm,
    "optimizer.max_delta": transforms.clip,
    "optimizer.clipping": transforms.adaptive_grad_clip,
}


def part(site: Site) -> Part:
    at = site.schedules
    chain = [(Place.CLIP, clip(at[key])) for key, clip in _CLIPS.items() if key in at]
    if "optimizer.weight_decay" in at:
        decay = transforms.add_decayed_weights(at["optimizer.weight_decay"], mask=_is_matrix)
        chain.append((Place.DECAY, decay))
    if site.own[NAME] == "adamw":
        betas = {name: at[f"optimizer.{name}"] for name in OPTIONS["adamw"]}
        adam = optax.inject_hyperparams(optax.scale_by_adam)(**betas)
        chain.append((Place.PRECONDITION, adam))
    else:
        trace = optax.inject_hyperparams(optax.trace, static_args="nesterov")
        momentum = trace(decay=at["optimizer.momentum"], nesterov=site.own[NESTEROV])
        chain.append((Place.MOMENTUM, momentum))
    return Part(chain=tuple(chain))


def _is_matrix(params):
    return jax.tree.map(lambda param: param.ndim > 1, params)


TECHNIQUE = Technique(
    "optimizer",
    KEYS,
    part,
    options={NAME: OPTIONS},
    about="Turns gradients into updates: clipping, weight decay, momentum.",
)
