"""TResNet-M on 4,000 training images of CIFAR-10: small data, balanced or not.

python -m experiments.prepare_data --dataset=cifar10
python -m experiments.train --config=configs/cifar10_4k.py --workdir=runs/cifar10_4k

It is meant for an accelerator; nobody has measured its time and accuracy yet. The dataset is one of
Table 1 of arXiv 2202.08835 and of arXiv 2202.08978; the latter has imbalanced sets, too. An epoch
has 10 batches. All else is as in configs/cifar10.py.

A variant may follow after a colon: those of configs/cifar10.py, or imbalanced, which has 580 images
of the first class and 220 of the last. The balanced set of the papers is --config.subset=first_4k,
and their other imbalanced set is --config.subset=4k_5_3.
"""

from configs import cifar10, default

VARIANTS = cifar10.VARIANTS | {"imbalanced": {"subset": "4k_6_2"}}


def get_config(variant: str = "plain"):
    config = cifar10.get_config()
    config.subset = "4k"
    return default.vary(config, VARIANTS, variant)
