"""CIFAR-100, 32x32, 45,000 training and 5,000 validation images. Not yet measured.

python -m experiments.prepare_data --dataset=cifar100
python -m experiments.train --config=configs/cifar100.py --workdir=runs/cifar100

Of Table 1 of arXiv 2202.08835, and of 2202.08978. Everything else is that of
configs/cifar10.py, the variants too.
"""

from configs import cifar10, default

VARIANTS = cifar10.VARIANTS


def get_config(variant: str = "plain"):
    config = cifar10.get_config()
    config.dataset = "cifar100"
    return default.vary(config, VARIANTS, variant)
