"""What is measured: cases, their sizes, peers and goals. Nothing heavy is imported here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Shapes of a step: a Qwen3-like student, its teacher, and a batch."""

    vocab: int = 4096
    width: int = 256
    mlp: int = 1024
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    layers: int = 4
    teacher_layers: int = 6
    batch: int = 16
    prompt: int = 32
    completion: int = 64
    group: int = 4  # rollouts of one prompt, where a step knows groups
    megabytes: int = 1000  # of a folder that is loaded, where one is


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a case is to reach: ratios of ours to the other's, at most."""

    time: float | None = None
    memory: float | None = None  # of the least that a peer takes


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the tables.

    `step` names what our process does in turn with the other's: a peer, which does the same, or
    ourselves doing `beside` with `beside_sizes`, called `beside_name`.
    """

    says: str
    step: str
    sizes: Sizes = Sizes()
    peers: tuple[str, ...] = ()
    goal: Goal = Goal()
    rounds: int = 7
    beside: str | None = None
    beside_sizes: Sizes | None = None
    beside_name: str = ""

    @property
    def reference(self) -> tuple[str, Sizes] | None:
        """What stands beside where no peer does, and its sizes."""
        return None if self.beside is None else (self.beside, self.beside_sizes or self.sizes)


WIDE = Sizes(vocab=151_936, batch=4, prompt=1, completion=96)
GEMMA = dataclasses.replace(
    WIDE, vocab=262_144, width=640, mlp=2048, heads=4, kv_heads=1, head_dim=256
)
LONG = Sizes(
    width=128, mlp=512, heads=2, kv_heads=2, batch=2, prompt=2, completion=2048, teacher_layers=4
)
SHORT = dataclasses.replace(LONG, batch=32, completion=128)
VOCABULARY = Goal(time=0.6, memory=0.6)

CASES: Mapping[str, Case] = MappingProxyType(
    {
        "a": Case("generate", "generate", peers=("trl",), goal=Goal(0.5)),
        "b": Case(
            "a whole distillation step: generate, teacher, update",
            "whole",
            peers=("trl",),
            goal=Goal(0.6),
        ),
        "p": Case(
            "teacher and update on given tokens", "learn", peers=("trl", "liger"), goal=Goal(0.8)
        ),
        "c": Case(
            "teacher and update, 151,936 ids",
            "learn",
            sizes=WIDE,
            peers=("trl", "liger"),
            goal=VOCABULARY,
        ),
        "c2": Case(
            "teacher and update, 262,144 ids, width 640",
            "learn",
            sizes=GEMMA,
            peers=("trl", "liger"),
            goal=VOCABULARY,
            rounds=4,
        ),
        "probe": Case(
            "six estimators side by side",
            "probe",
            beside="learn",
            beside_name="one training step",
        ),
        "reuse": Case(
            "a second update on the same rollouts: drift and update",
            "reuse",
            beside="whole",
            beside_name="a whole distillation step",
        ),
        "long": Case(
            "teacher and update, completions of 2,048",
            "learn",
            sizes=LONG,
            peers=("trl",),
            beside="learn",
            beside_sizes=SHORT,
            beside_name="as many tokens in completions of 128",
        ),
        "load": Case(
            "a folder of 1 GB loaded",
            "load",
            goal=Goal(2.0),
            beside="read",
            beside_name="reading its files",
            rounds=5,
        ),
    }
)

# The six estimators of `probe`.
ESTIMATORS = (
    "opd",
    "opd_sampled",
    "opd_baseline",
    "opd_resampled@k=4",
    "opd_topk@k=4",
    "soft_label",
)
METHOD = "opd"  # enumerated reverse KL, which peers have too
CLIP, RATE = 1.0, 1e-4
THREADS = 2


@dataclasses.dataclass(frozen=True)
class Peer:
    """A library that is measured in an environment of its own.

    `versions` are those that the script was written for; `lacks` says why cases are missing.
    """

    module: str
    versions: Mapping[str, str]
    lacks: str
    chunked: bool = False  # whether tokens a chunk can be said


TORCH = {"torch": "2.13.0", "transformers": "5.24.0"}
PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "trl": Peer(
            "experiments.bench.peer_trl",
            MappingProxyType(TORCH | {"trl": "1.16.0"}),
            "it does no such thing",
        ),
        "liger": Peer(
            "experiments.bench.peer_liger",
            MappingProxyType(TORCH | {"liger-kernel": "0.8.5"}),
            "it is a fused loss, measured on given tokens alone",
            chunked=True,
        ),
        "tunix": Peer(
            "",
            MappingProxyType({}),
            "Tunix 0.1.7 has no on-policy distillation, and no script here speaks for its sampler",
        ),
    }
)


def work(
    sizes: Sizes, step: str, chunk: int | None, peer_chunk: int | None = None, **more: Any
) -> dict[str, Any]:
    """What a measured process is told."""
    return {
        "step": step,
        "sizes": dataclasses.asdict(sizes),
        "chunk": chunk,
        "peer_chunk": peer_chunk,
        "method": METHOD,
        "estimators": list(ESTIMATORS),
        "clip": CLIP,
        "rate": RATE,
        "threads": THREADS,
        "seed": 0,
        **more,
    }
