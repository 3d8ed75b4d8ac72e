"""CIFAR-10, 32x32, 45,000 training and 5,000 validation images. Not yet measured.

python -m experiments.prepare_data --dataset=cifar10
python -m experiments.train --config=configs/cifar10.py --workdir=runs/cifar10

The network and the numbers are those of the published commands of arXiv 2202.08978: batch, epochs,
learning rate, weight decay, focal gammas, factor, and the ranges that cycle (of 2202.08835, whose
Table 1 has cyclical weight decay on this dataset). There is neither their warm-up of 3 epochs nor
their augmentation. It is for an accelerator: on a CPU take --config.model.name=resnet20_cifar.

After a colon, as in configs/cifar10.py:all, the variant: weight_decay, clipping, temperature and
focal cycle one technique each, all cycles the four at once.
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
