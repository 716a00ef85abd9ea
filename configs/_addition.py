"""Two-digit addition as the method configs share it: the data, the teacher, the student's start.

The teacher is fitted until it adds right 95 % of the time, the student until 25 %: so a reward is
neither always there nor never. Both take a minute on two CPU cores.
"""

from opd.data.pipeline import DataConfig
from opd.run.settings.config import FitConfig, ModelConfig, PlayerConfig

DATA = DataConfig(
    task="arithmetic",
    operation="add",
    digits=2,
    reverse=True,
    tokenizer="char",
    train=4000,
    validation=256,
    test=256,
    length=64,
)
TEACHER = PlayerConfig(
    model=ModelConfig(width=64, layers=2, heads=4),
    fit=FitConfig(steps=1500, batch=128, learning_rate=5e-3, stop_at=0.95),
)
STUDENT = PlayerConfig(
    model=ModelConfig(width=48, layers=2, heads=4),
    fit=FitConfig(steps=1500, batch=64, learning_rate=3e-3, stop_at=0.25, check_every=10),
)
