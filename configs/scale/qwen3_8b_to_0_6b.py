"""Qwen3-8B -> 0.6B on 16 chips: 256 rollouts of 1,024 tokens an update.

    python -m experiments.train --config=configs/scale/qwen3_8b_to_0_6b.py --workdir=DIR \\
        --config.teacher.path=FOLDER --config.student.path=FOLDER --config.data.prompts=FILE.jsonl

What it asks of a chip: `python -m experiments.compile_tpu` with the same --config.
"""

from configs.scale import _qwen3

TOPOLOGY = "v5e:4x4"  # what it was made for


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    config = _qwen3.get_config("Qwen3-8B", "Qwen3-0.6B", 256, prompt=256, length=1024)
    config.mesh.update(data=1, fsdp=16, tensor=1)
    config.optimizer.microbatches = 4
    config.teacher.rows = config.student.rows = 64
    return config
