"""Two-digit addition: a teacher, a weaker student, a probe of 18 rows, four arms.

python -m experiments.compare --config=configs/quickstart.py --workdir=runs/quickstart
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "seeds": 1,
            "group_size": 4,
            "temperature": 1.0,
            "chunk": 128,
            "data": {
                "task": "arithmetic",
                "operation": "add",
                "digits": 2,
                "reverse": True,
                "tokenizer": "char",
                "train": 4000,
                "validation": 256,
                "test": 256,
                "length": 64,
                "seed": 0,
            },
            "teacher": {
                "model": {"width": 96, "layers": 2, "heads": 4, "qk_norm": True},
                "fit": {"steps": 1500, "batch": 256, "learning_rate": 3e-3, "stop_at": 0.985},
            },
            "student": {
                "model": {"width": 64, "layers": 2, "heads": 4, "qk_norm": True},
                "fit": {"steps": 1500, "batch": 128, "learning_rate": 2e-3, "stop_at": 0.25},
            },
            "probe": {
                "rows": (
                    "opd",
                    "opd_sampled",
                    "opd_baseline",
                    "opd_resampled@k=4",
                    "opd_topk@k=4",
                    "opd_topk@k=4,tail=drop",
                    "opd_topk@k=4,tail=renormalise",
                    "opd_topk@k=4,tail=bucket",
                    "opd@gamma=0.5",
                    "opd@gamma=1",
                    "opd_sampled@gamma=1",
                    "soft_label",
                    "soft_label@expectation=sampled",
                    "reinforce",
                    "grpo",
                ),
                "groups": 128,
                "batch": 64,
                "sketch": 2048,
                "repeats": 7,
                "branches": 0,
            },
            "train": {
                "arms": ("opd", "opd_sampled", "opd_topk@k=4", "grpo"),
                "updates": 80,
                "prompts": 32,
                "learning_rates": (1e-3,),
                "warmup": 5,
                "clip": 1.0,
                "weight_decay": 0.0,
                "evaluate_every": 20,
            },
            "evaluate": {"split": "test", "prompts": 256, "samples": 4},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        }
    )
