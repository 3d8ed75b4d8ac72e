"""A network of your own: it adds dense blocks of one width. Their number is a new key, `depth`."""

from flax import linen as nn

from cyclical_jax.models import network_of
from cyclical_jax.techniques.network import NetworkWithKeys
from cyclical_jax.training.fields import whole


class ResidualMLP(nn.Module):
    num_classes: int
    hidden_sizes: tuple[int, ...] = (64,)
    depth: int = 2
    axis_name: str | None = None  # of BatchNorm, which this network has not

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(self.hidden_sizes[0])(images.reshape(len(images), -1))
        for _ in range(self.depth):
            x = x + nn.Dense(self.hidden_sizes[0])(nn.relu(x))
        return nn.Dense(self.num_classes)(nn.relu(x))


DEPTH = whole(2, "number of residual blocks", minimum=0)
MODELS = {"residual_mlp": NetworkWithKeys(network_of(ResidualMLP), {"model.depth": DEPTH})}
