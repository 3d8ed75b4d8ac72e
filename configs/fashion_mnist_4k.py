"""An MLP or a small CNN on 4,000 images of Fashion-MNIST: small data, balanced or not.

python -m experiments.prepare_data --dataset=fashion_mnist
python -m experiments.train --config=configs/fashion_mnist_4k.py --workdir=runs/fashion_mnist_4k

Test accuracy, mean ± standard deviation over 3 seeds, and seconds of training on 2 CPU cores:
  (no variant)     83.8 ± 0.1 %   about 1 s
  imbalanced       83.9 ± 0.2 %
  cnn              85.9 ± 0.4 %   9.4 s
  imbalanced_cnn   86.4 ± 0.6 %

A variant may follow after a colon, as in configs/fashion_mnist_4k.py:all:
  weight_decay, clipping, temperature, focal, all   as in configs/fashion_mnist.py
  imbalanced                                        580 images of the first class, 220 of the last
  cnn                                               a small convolutional network
  short_cnn                                         cnn, for 8 epochs in place of 20
  imbalanced_cnn                                    both

The 4K sets of arXiv 2202.08835 (Table 1) and arXiv 2202.08978 are cut from CIFAR; this one is cut
from Fashion-MNIST in the same way.
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
    "short_cnn": _CNN | {"duration": "8 epochs"},
    "imbalanced_cnn": _IMBALANCED | _CNN,
}


def get_config(variant: str = "plain"):
    config = fashion_mnist.get_config()
    config.subset = "4k"
    config.batch_size = 128
    config.duration = "20 epochs"
    return default.vary(config, VARIANTS, variant)
