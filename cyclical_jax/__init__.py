"""Cyclical training for JAX: hyperparameters go easy -> hard -> easy on one schedule."""

from cyclical_jax.losses import asymmetric_focal_loss as asymmetric_focal_loss
from cyclical_jax.losses import asymmetric_multilabel_loss as asymmetric_multilabel_loss
from cyclical_jax.losses import cyclical_focal_loss as cyclical_focal_loss
from cyclical_jax.losses import cyclical_multilabel_loss as cyclical_multilabel_loss
from cyclical_jax.losses import focal_loss as focal_loss
from cyclical_jax.losses import softmax_cross_entropy as softmax_cross_entropy
from cyclical_jax.losses import weighted_mean as weighted_mean
from cyclical_jax.schedules import as_integer as as_integer
from cyclical_jax.schedules import between as between
from cyclical_jax.schedules import cyclical_schedule as cyclical_schedule
from cyclical_jax.schedules import hardness_schedule as hardness_schedule
from cyclical_jax.schedules import per_epoch as per_epoch
from cyclical_jax.transforms import accumulate_gradients as accumulate_gradients
from cyclical_jax.transforms import adaptive_grad_clip as adaptive_grad_clip
from cyclical_jax.transforms import add_decayed_weights as add_decayed_weights
from cyclical_jax.transforms import clip as clip
from cyclical_jax.transforms import clip_by_global_norm as clip_by_global_norm
from cyclical_jax.transforms import current_values as current_values
