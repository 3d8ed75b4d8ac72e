"""Learning from images without labels. The maths is in cyclical_jax/semisupervised.py."""

from collections.abc import Iterator

from cyclical_jax import augment, data
from cyclical_jax.semisupervised import pseudo_label_loss, pseudo_labels
from cyclical_jax.training.fields import knob, names, or_none, whole
from cyclical_jax.training.technique import (
    CLASS_LOGITS,
    IMAGES,
    SPATIAL,
    BatchTransform,
    LossTerm,
    Own,
    Part,
    Prepared,
    Site,
    Technique,
)

WEIGHT, THRESHOLD = "semisupervised.unlabelled_weight", "semisupervised.threshold"
BATCH_SIZE = "semisupervised.batch_size"
WEAK, STRONG = "weak", "strong"  # views of the unlabelled images
CONFIDENT = "confident"  # share of them that is predicted well enough to be learned from

KEYS = {
    WEIGHT: or_none(
        knob(
            None,
            "weight of the loss of the unlabelled examples, which are those that subset leaves out",
            minimum=0,
        )
    ),
    THRESHOLD: knob(
        0.95, "probability from which a prediction counts as a label", minimum=0, maximum=1
    ),
    BATCH_SIZE: whole(
        128, "unlabelled examples per micro step, summed over all devices", minimum=1
    ),
    "semisupervised.weak": names(
        tuple(augment.OPERATIONS),
        "operations on the view whose prediction becomes the label",
        default=("crop", "flip"),
    ),
    "semisupervised.strong": names(
        tuple(augment.OPERATIONS),
        "operations on the view that learns this label",
        default=("crop", "flip", "mix", "erase"),
    ),
}


def problems(checked: Own) -> Iterator[str]:
    if not checked.keys() >= {"dataset", "data_dir", "image_size", "train_on", "subset"}:
        return
    name, train_on, subset = (checked[key] for key in ("dataset", "train_on", "subset"))
    size, data_dir = checked.get(BATCH_SIZE, 1), checked["data_dir"]
    try:
        rest = {"image_size": checked["image_size"], "data_dir": data_dir}
        data.check_unlabelled(name, train_on, subset, **rest)
        number = data.num_unlabelled(name, train_on=train_on, subset=subset, data_dir=data_dir)
        if size > number:
            yield f"{BATCH_SIZE} {size} is more than the {number} unlabelled examples."
    except ValueError as error:
        reason = str(error).replace("`", "")
        yield f"{WEIGHT} needs a subset, say 'balanced 250': {reason}"


def prepare(host) -> Prepared:
    """Adds the images that the subset leaves out."""
    if data.UNLABELLED in host.dataset.train:
        return Prepared()
    train = host.load(unlabelled=True).train
    return Prepared(examples={data.UNLABELLED: train[data.UNLABELLED]})


def part(site: Site) -> Part:
    def view(name):
        key = f"semisupervised.{name}"
        limits = site.limits_for(key, augment.NEED_LIMITS)
        change = augment.augment(site.own[key], limits=limits)

        def transform(batch, key, strength):
            images = data.as_floats(batch[data.UNLABELLED])
            return batch | {name: change({"image": images}, key, strength)["image"]}

        return BatchTransform(transform)

    def loss(strong, weak, batch, values):
        return pseudo_label_loss(strong, weak, values[THRESHOLD])

    def is_confident(strong, weak, batch, values):
        return pseudo_labels(weak, values[THRESHOLD]) >= 0

    weight, measures = site.schedules[WEIGHT], ((CONFIDENT, is_confident),)
    term = LossTerm(loss, weight, views=(STRONG, WEAK), measures=measures)
    return Part(transforms=(view(WEAK), view(STRONG)), terms=(term,))


TECHNIQUE = Technique(
    "semisupervised",
    KEYS,
    part,
    switch=WEIGHT,
    needs=frozenset({IMAGES, CLASS_LOGITS, SPATIAL}),
    measures=(CONFIDENT,),
    percent=(CONFIDENT,),
    beside={data.UNLABELLED: BATCH_SIZE},
    problems=problems,
    prepare=prepare,
    about="Learns from images without labels: confident predictions become labels (FixMatch).",
)
