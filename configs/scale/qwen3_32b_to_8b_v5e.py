"""Qwen3-32B -> 8B on 256 chips v5e: 512 rollouts of 8,192 tokens an update.

    python -m experiments.train --config=configs/scale/qwen3_32b_to_8b_v5e.py --workdir=DIR \\
        --config.teacher.path=FOLDER --config.student.path=FOLDER --config.data.prompts=FILE.jsonl

What it asks of a chip: `python -m experiments.compile_tpu` with the same --config.
"""

from configs.scale import _qwen3

TOPOLOGY = "v5e:16x16"  # what it was made for


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    config = _qwen3.get_config("Qwen3-32B", "Qwen3-8B", 512, prompt=512, length=8192)
    config.mesh.update(data=1, fsdp=32, tensor=8)
    config.optimizer.microbatches = 16
    config.teacher.rows = config.student.rows = 32
    return config
