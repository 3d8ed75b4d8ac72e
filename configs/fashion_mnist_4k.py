"""Fashion-MNIST with 4,000 training images: small data, balanced or not.

python -m experiments.prepare_data --dataset=fashion_mnist
python -m experiments.train --config=configs/fashion_mnist_4k.py --workdir=runs/fashion_mnist_4k

The papers' 4K sets, of Table 1 of arXiv 2202.08835 and of 2202.08978, are of CIFAR; this is of the
same make. On 2 CPU cores, test accuracy over 3 seeds, mean ± standard deviation: 83.8 ± 0.1 % in
about 1 s of training, imbalanced 83.9 ± 0.2 %; cnn 85.9 ± 0.4 % in 9.4 s, imbalanced_cnn
86.4 ± 0.6 %.

After a colon, as in configs/fashion_mnist_4k.py:all, the variant: weight_decay, clipping,
temperature, focal and all cycle as in configs/fashion_mnist.py; imbalanced has 580 images of the
first class, 220 of the last; cnn is a small convolutional network, imbalanced_cnn both.
"""

from configs import default, fashion_mnist

_TECHNIQUES = ("plain", "weight_decay", "clipping", "temperature", "focal", "all")
_IMBALANCED = {"subset": "4k_6_2"}
_CNN = {
    "model.name": "cnn",
    "model.widths": (8, 16),
    "model.hidden_sizes": (64,),
    "duration": "20 epochs",
}

VARIANTS = {name: fashion_mnist.VARIANTS[name] for name in _TECHNIQUES} | {
    "imbalanced": _IMBALANCED,
    "cnn": _CNN,
    "imbalanced_cnn": _IMBALANCED | _CNN,
}


def get_config(variant: str = "plain"):
    config = fashion_mnist.get_config()
    config.subset = "4k"
    config.batch_size = 128
    config.duration = "20 epochs"
    return default.vary(config, VARIANTS, variant)
