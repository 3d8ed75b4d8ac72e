"""Flax linen models, behind two functions that take and return only arrays and pytrees."""

from cyclical_jax.models.batch_norm import batch_norm as batch_norm
from cyclical_jax.models.cnn import CNN as CNN
from cyclical_jax.models.mlp import MLP as MLP
from cyclical_jax.models.model import CONVOLUTIONAL as CONVOLUTIONAL
from cyclical_jax.models.model import MODEL_OPTIONS as MODEL_OPTIONS
from cyclical_jax.models.model import MODELS as MODELS
from cyclical_jax.models.model import NETWORKS as NETWORKS
from cyclical_jax.models.model import Model as Model
from cyclical_jax.models.model import Network as Network
from cyclical_jax.models.model import from_linen as from_linen
from cyclical_jax.models.model import make_model as make_model
from cyclical_jax.models.model import network_of as network_of
from cyclical_jax.models.patch_dense import PatchDense as PatchDense
from cyclical_jax.models.summary import summary as summary
