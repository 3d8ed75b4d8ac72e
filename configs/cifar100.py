"""TResNet-M on CIFAR-100: 32x32 pixels, 45,000 training and 5,000 validation images.

python -m experiments.prepare_data --dataset=cifar100
python -m experiments.train --config=configs/cifar100.py --workdir=runs/cifar100

It is meant for an accelerator; nobody has measured its time and accuracy yet. The dataset is one of
Table 1 of arXiv 2202.08835 and of arXiv 2202.08978. All else is as in configs/cifar10.py, including
the variants.
"""

from configs import cifar10, default

VARIANTS = cifar10.VARIANTS


def get_config(variant: str = "plain"):
    config = cifar10.get_config()
    config.dataset = "cifar100"
    return default.vary(config, VARIANTS, variant)
