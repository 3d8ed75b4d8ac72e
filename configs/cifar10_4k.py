"""CIFAR-10 with 4,000 training images: small data, balanced or not. Not yet measured.

python -m experiments.prepare_data --dataset=cifar10
python -m experiments.train --config=configs/cifar10_4k.py --workdir=runs/cifar10_4k

Of Table 1 of arXiv 2202.08835, and of 2202.08978, which has imbalanced ones too. Everything else is
that of configs/cifar10.py; an epoch has 10 batches. Beside its variants there is imbalanced, with
580 images of the first class and 220 of the last. The published balanced set is
--config.subset=first_4k, the other imbalanced one --config.subset=4k_5_3.
"""

from configs import cifar10, default

VARIANTS = cifar10.VARIANTS | {"imbalanced": {"subset": "4k_6_2"}}


def get_config(variant: str = "plain"):
    config = cifar10.get_config()
    config.subset = "4k"
    return default.vary(config, VARIANTS, variant)
