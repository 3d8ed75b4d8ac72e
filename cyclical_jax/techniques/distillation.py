"""Learning from a teacher's soft labels. The maths is in cyclical_jax/distillation.py."""

from cyclical_jax.distillation import distillation_loss, teacher_logits
from cyclical_jax.training.fields import earlier_run, knob
from cyclical_jax.training.technique import (
    CLASS_LOGITS,
    MAIN,
    BatchTransform,
    LossTerm,
    Part,
    Prepared,
    Site,
    Technique,
)

RUN = "distillation.teacher"
WEIGHT, TEMPERATURE = "distillation.teacher_weight", "distillation.teacher_temperature"
LOGITS = "teacher"  # entry of a batch

KEYS = {
    RUN: earlier_run("workdir of the teacher: the run whose predictions are the soft labels"),
    WEIGHT: knob(
        {"easy": 1.0, "hard": 0.0},
        "weight of the teacher's loss; the labels' loss gets the rest of 1",
        minimum=0,
        maximum=1,
    ),
    TEMPERATURE: knob(
        2.0, "divisor of the logits of teacher and student in the teacher's loss", above=0
    ),
}


def prepare(host) -> Prepared:
    """Asks the teacher once where the inputs do not change, else at every step."""
    if not host.inputs_change and LOGITS in host.dataset.train:  # a teacher of another library
        return Prepared()
    teacher = host.read_run(RUN)
    if host.inputs_change:
        return Prepared(given=teacher)
    logits = teacher_logits(host.apply, teacher, host.dataset.train["image"])
    return Prepared(examples={LOGITS: logits})


def part(site: Site) -> Part:
    def ask(batch, key, strength):
        return batch | {LOGITS: site.given.outputs(batch[MAIN])}

    def loss(logits, batch, values):
        return distillation_loss(logits, batch[LOGITS], temperature=values[TEMPERATURE])

    term = LossTerm(loss, site.schedules[WEIGHT], is_instead=True)
    return Part(() if site.given is None else (BatchTransform(ask),), (term,))


TECHNIQUE = Technique(
    "distillation",
    KEYS,
    part,
    switch=RUN,
    needs=frozenset({CLASS_LOGITS}),
    prepare=prepare,
    about="Learns from the soft labels of a teacher, which is an earlier run.",
)
