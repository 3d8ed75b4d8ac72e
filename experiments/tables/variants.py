"""What do the variants of configs/fashion_mnist.py do as they stand? Each is beside its control.

Nothing is tuned. Three arms need two earlier runs:

    python -m experiments.train --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist
    python -m experiments.train --config=configs/fashion_mnist.py:pretraining \
        --workdir=runs/fashion_mnist_pretraining

A control is the variant with its value held at the mean of the cycle, or without the technique.
"""

from configs.fashion_mnist import FEW_LABELS, VARIANTS
from experiments.arms import Arm, Budget, Table

_4K = {"subset": "balanced 4000"}


def _held(variant: str, **changes) -> dict:
    """Returns the changes of a variant with other values, given as `section__key=value`."""
    return VARIANTS[variant] | {key.replace("__", "."): value for key, value in changes.items()}


def _only(variant: str, key: str) -> dict:
    return {key: VARIANTS[variant][key]}


_ONES_OF_PLAIN = ("weight_decay", "clipping", "temperature", "focal", "all")
_RATES = ("learning_rate", "one_cycle", "warm_restarts")

TABLE = Table(
    about="Compares each technique, as its variant of the config has it, with its control; nothing "
    "is tuned.",
    common={"log_every": "500 steps", "validate_every": "500 steps"},
    arms={
        "plain": Arm(),
        **{name: Arm(VARIANTS[name], control="plain") for name in (*_ONES_OF_PLAIN, *_RATES)},
        "batch size, constant": Arm(_held("batch_size", accumulate=2)),
        "batch_size": Arm(VARIANTS["batch_size"], control="batch size, constant"),
        "augmentation, constant": Arm(_held("augmentation", augment__strength=0.5)),
        "augmentation": Arm(VARIANTS["augmentation"], control="augmentation, constant"),
        "dropout, constant": Arm(_held("dropout", model__dropout=0.15)),
        "dropout": Arm(VARIANTS["dropout"], control="dropout, constant"),
        "label smoothing, constant": Arm(_held("label_smoothing", loss__label_smoothing=0.05)),
        "label_smoothing": Arm(VARIANTS["label_smoothing"], control="label smoothing, constant"),
        "moving average, constant": Arm(_held("moving_average", ema_decay=0.95)),
        "moving_average": Arm(VARIANTS["moving_average"], control="moving average, constant"),
        "small network": Arm(_only("distillation", "model.hidden_sizes")),
        "taught, constant": Arm(
            _held("distillation", distillation__teacher_weight=0.5), control="small network"
        ),
        "distillation": Arm(VARIANTS["distillation"], control="taught, constant"),
        "curriculum, constant": Arm(
            _held("curriculum", curriculum__preference=2.0), control="plain"
        ),
        "curriculum": Arm(VARIANTS["curriculum"], control="curriculum, constant"),
        "running curriculum, constant": Arm(
            _held("running_curriculum", running_curriculum__preference=2.0), control="plain"
        ),
        "running_curriculum": Arm(
            VARIANTS["running_curriculum"], control="running curriculum, constant"
        ),
        "multilabel, constant": Arm(_held("multilabel", multilabel__hardness=0.5), control="plain"),
        "multilabel": Arm(VARIANTS["multilabel"], control="multilabel, constant"),
        "precision, constant": Arm(
            _held("precision", precision__weights=6, precision__activations=6), control="plain"
        ),
        "precision": Arm(VARIANTS["precision"], control="precision, constant"),
        "long tail": Arm(_only("class_weights", "subset")),
        "class_weights": Arm(VARIANTS["class_weights"], control="long tail"),
        "1,000 labels": Arm(
            _held(
                "finetuning",
                finetuning__start=None,
                finetuning__new_head=False,
                finetuning__share=None,
            )
        ),
        "fine-tuned, all layers": Arm(
            _held("finetuning", finetuning__share=None), control="1,000 labels"
        ),
        "finetuning": Arm(VARIANTS["finetuning"], control="fine-tuned, all layers"),
        "250 labels": Arm(FEW_LABELS),
        "250 labels and others, constant": Arm(
            _held("semisupervised", semisupervised__unlabelled_weight=0.5), control="250 labels"
        ),
        "semisupervised": Arm(
            VARIANTS["semisupervised"], control="250 labels and others, constant"
        ),
        "4,000 labels": Arm(FEW_LABELS | _4K),
        "4,000 labels and others, constant": Arm(
            _held("semisupervised", semisupervised__unlabelled_weight=0.5) | _4K,
            control="4,000 labels",
        ),
        "semisupervised, 4,000": Arm(
            VARIANTS["semisupervised"] | _4K, control="4,000 labels and others, constant"
        ),
    },
    budgets={"fashion_mnist": Budget(num_seeds=5)},
)
