"""ImageNet, 224x224, 1,271,167 training and 10,000 validation images. Not yet measured.

python -m experiments.prepare_data --dataset=imagenet2012 --raw_dir=DIR
python -m experiments.train --config=configs/imagenet.py --workdir=runs/imagenet

Of Table 1 of arXiv 2202.08835. Network, batch, epochs, learning rate, weight decay, moving average,
focal gammas and factor are those of the published command of arXiv 2202.08978, four accelerators
with 384 images each. There is neither its warm-up of 3 epochs nor its mixup, random erasing and
RandAugment; crops and mirrors are there. Images are read by --num_workers processes. The official
validation images are our test split.

After a colon, as in configs/imagenet.py:all, the variant: weight_decay, clipping, temperature and
focal cycle one technique each, all cycles the four at once. long_tailed has 700 images of the
first class and 7 of the last; those of ImageNet-LT are --config.subset=ImageNet_LT_train.txt, a
line "n01440764/n01440764_10026.JPEG 0" an image.
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
