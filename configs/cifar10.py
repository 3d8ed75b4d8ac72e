"""TResNet-M on CIFAR-10: 32x32 pixels, 45,000 training and 5,000 validation images.

python -m experiments.prepare_data --dataset=cifar10
python -m experiments.train --config=configs/cifar10.py --workdir=runs/cifar10

It is meant for an accelerator; nobody has measured its time and accuracy yet. On a CPU take
--config.model.name=resnet20_cifar.

The network and the numbers are those of the published commands of arXiv 2202.08978: batch size,
epochs, learning rate, weight decay, focal gammas and factor. The ranges of the cycles are those of
arXiv 2202.08835, whose Table 1 has cyclical weight decay on this dataset. The warm-up of 3 epochs
and the augmentation of the published commands are left out.

A variant may follow after a colon, as in configs/cifar10.py:all:
  weight_decay, clipping, temperature, focal   one cyclical technique each
  all                                          these four at once
"""

from configs import default
from cyclical_jax.training.recipe import cyclical

VARIANTS = default.variants(cyclical(easy=1e-5, hard=8e-5))


def get_config(variant: str = "plain"):
    config = default.get_config()
    config.dataset = "cifar10"
    config.batch_size = 384
    config.duration = "200 epochs"
    config.cycle.factor = 4.0
    config.model.name = "tresnet_m"
    config.optimizer.learning_rate = 0.15
    config.optimizer.weight_decay = 5e-4
    return default.vary(config, VARIANTS, variant)
