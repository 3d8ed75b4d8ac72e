"""TResNet-M on ImageNet: 224x224 pixels, 1,271,167 training and 10,000 validation images.

python -m experiments.prepare_data --dataset=imagenet2012 --raw_dir=DIR
python -m experiments.train --config=configs/imagenet.py --workdir=runs/imagenet

It is meant for several accelerators; nobody has measured its time and accuracy yet. Images are read
by --num_workers processes. The official validation images are the test split here.

The dataset is one of Table 1 of arXiv 2202.08835. Network, batch size, epochs, learning rate,
weight decay, moving average, focal gammas and factor are those of the published command of arXiv
2202.08978, which uses four accelerators with 384 images each. Random crops and mirror images are
there; the command's warm-up of 3 epochs, mixup, random erasing and RandAugment are left out.

A variant may follow after a colon, as in configs/imagenet.py:all:
  weight_decay, clipping, temperature, focal   one cyclical technique each
  all                                          these four at once
  long_tailed                                  a ResNet-10 on 700 images of the first class, 7 of
                                               the last, and numbers between them for the others
The subset of ImageNet-LT is --config.subset=ImageNet_LT_train.txt, a file with a line such as
"n01440764/n01440764_10026.JPEG 0" for each image.
"""

from configs import default
from cyclical_jax.training.recipe import cyclical

VARIANTS = default.variants(cyclical(easy=1e-5, hard=4e-5)) | {
    "long_tailed": {"subset": "long_tailed 700 100", "model.name": "resnet10"}
}


def get_config(variant: str = "plain"):
    config = default.get_config()
    config.dataset = "imagenet2012"
    config.image_size = 224
    config.batch_size = 1536
    config.duration = "200 epochs"
    config.log_every = "100 steps"
    config.ema_decay = 0.9999
    config.cycle.factor = 4.0
    config.model.name = "tresnet_m"
    config.model.dtype = "bfloat16"
    config.optimizer.learning_rate = 0.6
    config.optimizer.weight_decay = 2e-5
    return default.vary(config, VARIANTS, variant)
