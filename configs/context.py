"""Context distillation: a teacher that is told the answer grades a student that is not.

    python -m experiments.train --config=configs/context.py --workdir=runs/context

Snell, Klein and Zhong 2022 (arXiv:2209.15189), section 3; on the student's own completions as in
OPSD (arXiv:2601.18734). The row is opd. --config.teacher.prompt is a
template over the columns of the data; here it puts the answer before the sum, and a teacher that
is no larger than the student has only to copy it. --config.teacher.source=ema is the student
itself, told more: it takes a student that can read what it is told, which one of this size, fitted
to bare sums, can't.

Shows what a student learns from a teacher that knows more only because it is told more: compare
with configs/distill.py, whose teacher is the larger model. No figure was taken.
"""

from configs import _addition


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    config = _addition.get_config()
    config.method.name = "opd"
    config.teacher.prompt = "{{ answer }}={{ prompt }}"
    config.teacher.model.update(width=48, layers=2, heads=4)
    return config
