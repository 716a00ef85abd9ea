"""On-policy distillation and reinforcement learning of language models as one program."""

import importlib
import os

# jaxlib 0.10.2 to at least 0.12.0 hand some reductions to a CPU library that returns wrong sums,
# silently (jax-ml/jax issue 39103); a gradient of one estimator then leaks into another's. The
# flag turns that library off, and costs no time here. It is read when JAX first computes.
_LIBRARY = "xla_cpu_experimental_ynn_fusion_type"
if _LIBRARY not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{_LIBRARY}=".strip()

# What a program of one's own starts from; the rooms are imported when one is asked for.
_MODELS = ("load_model", "logits", "save_model", "Policy")


def __getattr__(name: str):
    if name in _MODELS:
        return getattr(importlib.import_module("opd.run.players.models"), name)
    raise AttributeError(f"module 'opd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_MODELS]
