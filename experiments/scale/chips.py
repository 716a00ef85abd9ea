"""What a chip has: the one table that predictions are made from.

Peaks of the vendor's own pages, not what a program reaches. TPUs: cloud.google.com/tpu/docs, the
pages v5e, v6e and v5p (peak compute per chip in bf16, HBM capacity and bandwidth, inter-chip
interconnect bandwidth). H200: the SXM column of NVIDIA's H200 datasheet (dense bf16, that is
half of what is given with sparsity; NVLink's 900 GB/s are both directions together).
`usable` is what the TPU compiler lets a program have, as libtpu 0.0.42.1 says it when one asks for
more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peaks of one chip."""

    flops: float  # a second, bfloat16 matmuls
    memory: int  # bytes
    usable: int  # bytes of them that a program can have
    bandwidth: float  # bytes a second, of that memory
    links: float  # bytes a second, to other chips, all links together


CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        "v5e": Chip(197e12, 16 * GIB, int(15.75 * GIB), 819e9, 200e9),
        "v6e": Chip(918e12, 32 * GIB, int(31.25 * GIB), 1640e9, 448e9),
        "v5p": Chip(459e12, 95 * GIB, int(95.74 * GIB), 2765e9, 600e9),
        "h200": Chip(989e12, 141 * 10**9, 141 * 10**9, 4800e9, 450e9),
    }
)
# Topologies of so many chips that are compiled for where a number alone is given.
TOPOLOGIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
        "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
        "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    }
)


def topology(name: str) -> tuple[str, int]:
    """The kind of chip and how many of them, of a topology KIND:AxB or KIND:AxBxC.

    Raises:
        ValueError: an unknown kind or shape.
    """
    kind, _, shape = name.partition(":")
    if shape not in TOPOLOGIES.get(kind, ()):
        allowed = ", ".join(f"{kind}:{one}" for kind, all in TOPOLOGIES.items() for one in all)
        raise ValueError(f"--topology={name}: {allowed} are allowed")
    return kind, math.prod(map(int, shape.split("x")))


def chips(name: str) -> tuple[str, int]:
    """The kind of chip and how many of them, of KIND-N or KINDxN: v5e-256, h200x8.

    Raises:
        ValueError: an unknown kind, or no number.
    """
    for mark in "-x":
        kind, found, count = name.rpartition(mark)
        if found and kind in CHIPS and count.isdecimal() and int(count) > 0:
            return kind, int(count)
    raise ValueError(f"--chips={name}: KIND-N with one of {', '.join(CHIPS)} is allowed, v5e-256")
