"""What the configs of this folder share: one Qwen3 distilled into another, row opd.

Paths are names of published sizes, which is all that `experiments.compile_tpu` and
`experiments.plan` need; a training takes the folders themselves, and prompts.
"""

from opd.run.settings.config import Config, config_dict


def get_config(teacher: str, student: str, rollouts: int, prompt: int, length: int):
    """A complete config but for the folders and the prompts, which have no default."""
    config = config_dict(Config())
    config.updates = 200
    config.group_size = 8
    config.prompts = rollouts // config.group_size
    config.data.update(prompts="prompts.jsonl", max_prompt=prompt, max_completion=length)
    for name, path in (("teacher", teacher), ("student", student)):
        config[name].update(path=path, dtype="bfloat16")
    config.student.remat = "full"
    config.probe.rows = ("opd", "opd_sampled")
    config.probe.update(groups=128, batch=config.prompts)
    config.compare.arms = ("opd", "opd_sampled")
    config.optimizer.update(learning_rate=1e-5, warmup=10)
    config.evaluate.update(every=20, prompts=64, samples=4)
    config.checkpoint.every = 20
    return config
