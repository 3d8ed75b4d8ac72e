"""An MLP on Fashion-MNIST: 28x28 pixels, 55,000 training and 5,000 validation images.

python -m experiments.prepare_data --dataset=fashion_mnist
python -m experiments.train --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

On 2 CPU cores training takes less than 20 s. Expect about 90 % of the test images right.

A variant may follow after a colon, as in configs/fashion_mnist.py:all:
  weight_decay, clipping, temperature, focal   one cyclical technique each
  all                                          these four at once
  batch_size            a cyclical batch size; one_batch computes it as larger batches
  augmentation, dropout, label_smoothing, moving_average, learning_rate
                        one cyclical value each
  one_cycle, warm_restarts
                        another schedule of the learning rate
  multilabel            each class against all others
  running_curriculum    easy images first, by their own running losses
  semisupervised        250 labelled images, and all others without labels
  class_weights         weighted classes of very different sizes (a long tail)
  precision             few bits at the peak; slower on a CPU, since it saves bits, not time
  stochastic_depth      a ResNet-20 on 4,000 images; a run takes minutes on a CPU
  distillation, curriculum
                        use the run in runs/fashion_mnist, which the command above makes
  finetuning            uses a run of the variant pretraining in runs/fashion_mnist_pretraining
  quick                 an MLP and the cyclical focal loss: 90 % of the test images in about 5 s
  patches               a PatchDense and the same loss: 91 % in about 20 s
Times are those on 2 CPU cores.
"""

from configs import default
from cyclical_jax.training.recipe import cyclical

# Both train on all 60,000 images: nothing is chosen by them any more.
_FINAL = default.CYCLICAL_FOCAL | {"train_on": "train+validation"}

FEW_LABELS = {
    "subset": "balanced 250",
    "duration": "4000 steps",
    "log_every": "200 steps",
    "validate_every": "200 steps",
    "batch_size": 50,
}
RESNET = {
    "model.name": "resnet20_cifar",
    "model.hidden_sizes": (64,),  # which it does not read
    "model.batch_norm": False,
    "subset": "4k",
    "batch_size": 64,
    "duration": "5 epochs",
}
_FINETUNING = {
    "subset": "balanced 1000",
    "finetuning.start": "runs/fashion_mnist_pretraining",
    "finetuning.new_head": True,
    "duration": "20 epochs",
    "batch_size": 50,
    "optimizer.learning_rate": 0.01,
}

VARIANTS = default.variants(cyclical(easy=1e-4, hard=1e-3)) | {
    "batch_size": {"accumulate": cyclical(easy=4, hard=1), "batch_size": 128},
    "one_batch": {
        "accumulate": cyclical(easy=4, hard=1),
        "accumulate_as": "one_batch",
        "batch_size": 128,
    },
    "augmentation": {
        "augment.operations": ("crop", "flip", "erase"),
        "augment.strength": cyclical(easy=0, hard=1),
    },
    "multilabel": {"task.name": "multilabel"},
    "dropout": {"model.dropout": cyclical(easy=0, hard=0.3)},
    "stochastic_depth": RESNET | {"model.stochastic_depth": cyclical(easy=0, hard=0.2)},
    "label_smoothing": {"loss.label_smoothing": cyclical(easy=0, hard=0.1)},
    "moving_average": {"ema_decay": cyclical(easy=0.9, hard=0.999)},
    "learning_rate": {
        "optimizer.learning_rate": cyclical(easy=0.005, hard=0.2),
        "optimizer.learning_rate_schedule": None,
    },
    "one_cycle": {"optimizer.learning_rate_schedule": "one_cycle"},
    "warm_restarts": {
        "optimizer.learning_rate_schedule": "warm_restarts",
        "optimizer.first_cycle": "1 epoch",  # then 2, 4 and 8: the run ends at the end of a cycle
    },
    "semisupervised": FEW_LABELS
    | {
        "semisupervised.unlabelled_weight": cyclical(easy=0, hard=1),
        "semisupervised.weak": ("flip",),
        "semisupervised.strong": ("flip", "crop", "erase"),
    },
    "distillation": {
        "model.hidden_sizes": (32,),
        "distillation.teacher": "runs/fashion_mnist",
        "distillation.teacher_weight": cyclical(easy=0.9, hard=0.1),
    },
    "curriculum": {
        "curriculum.scorer": "runs/fashion_mnist",
        "curriculum.preference": cyclical(easy=4, hard=0),
    },
    "running_curriculum": {"running_curriculum.preference": cyclical(easy=4, hard=0)},
    "pretraining": {"subset": "long_tailed 5000 100"},
    "finetuning": _FINETUNING | {"finetuning.share": cyclical(easy=0, hard=1)},
    "class_weights": {"subset": "long_tailed 5000 100", "loss.class_weights": "balanced"},
    "precision": default.FEW_BITS,
    "quick": _FINAL
    | {
        "duration": "10 epochs",  # on validation images 91.33 %, with 12 epochs 91.39 % (3 seeds)
        "optimizer.name": "adamw",
        "optimizer.learning_rate": cyclical(easy=1e-6, hard=3e-3, factor=5),
        "optimizer.learning_rate_schedule": None,
        "optimizer.weight_decay": 0.03,
    },
    "patches": _FINAL
    | {
        "duration": "8 epochs",
        "model.name": "patch_dense",
        "model.channels": 64,
        "model.hidden_sizes": (256,),
    },
}


def get_config(variant: str = "plain"):
    config = default.get_config()
    config.dataset = "fashion_mnist"
    config.batch_size = 256
    config.duration = "15 epochs"
    config.model.hidden_sizes = (256, 128)
    config.model.batch_norm = True
    config.optimizer.weight_decay = 5e-4
    return default.vary(config, VARIANTS, variant)
