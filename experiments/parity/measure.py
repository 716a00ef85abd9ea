"""One case, every property: what our import, decoding and export make of their folder.

Differences of logits are relative to the root mean square of theirs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from experiments.parity import cases, peer
from experiments.parity.cases import Case
from opd import draws
from opd.engine import programs, sharding, steps, vocab
from opd.engine.steps import Sampling
from opd.run.players import hub_export, models
from opd.run.players.models import Policy

CONTINUED = 64  # tokens of a greedy continuation
PROMPTS = (16, 9, 5)  # tokens of its prompts, side by side with padding on the left
Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Scene:
    """A case's folder, their model of it and ours."""

    case: Case
    folder: Path
    work: Path  # for what is written
    theirs: Any
    policy: Policy
    tokens: Array  # [B, S]
    wanted: Array  # [B, S, V], their logits


def mesh() -> jax.sharding.Mesh:
    """One device."""
    return sharding.make_mesh(jax.devices()[:1])


def scene(case: Case, work: Path) -> Scene:
    """Their folder, written and read by both."""
    folder = work / "theirs"
    peer.write(case, folder)
    theirs, policy = peer.load(folder), models.load_model(folder, mesh=mesh())
    tokens = cases.tokens(2)
    return Scene(case, folder, work, theirs, policy, tokens, peer.logits(theirs, tokens))


def difference(found: Array, wanted: Array) -> float:
    """The largest |found - wanted|, in root mean squares of what is wanted."""
    found, wanted = (np.asarray(each, np.float64) for each in (found, wanted))
    return float(np.max(np.abs(found - wanted)) / np.sqrt(np.mean(np.square(wanted))))


def logits(given: Scene) -> float:
    """Of all positions of two inputs."""
    return difference(models.logits(given.policy, given.tokens), given.wanted)


def _prompts() -> list[Array]:
    return [cases.tokens(1, size, seed=size)[0] for size in PROMPTS]


def continued(given: Scene) -> Array:
    """Their greedy continuations, one by one: [prompts, CONTINUED]."""
    return np.stack([peer.greedy(given.theirs, each, CONTINUED) for each in _prompts()])


def greedy(given: Scene) -> int:
    """How many tokens of the continuations agree before any differs.

    Ours are decoded side by side, with padding on the left.
    """
    width = max(PROMPTS)
    prompt = np.stack([np.pad(each, (width - len(each), 0)) for each in _prompts()])
    mask = np.stack([np.arange(width) >= width - size for size in PROMPTS])
    sampling = Sampling(CONTINUED, eos_ids=(), pad_id=0, temperature=0.0)
    rows = programs.batch_rows(prompt, mask, 1)
    policy, key = given.policy, draws.key(0, 0, "action")
    drawn = programs.rollout(
        mesh(), policy.model, policy.params, **rows, key=key, sampling=sampling
    )
    agree = np.all(np.asarray(drawn.tokens) == continued(given), axis=0)
    return CONTINUED if agree.all() else int(np.argmin(agree))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _decoded(model: Any, params: Any, tokens: Any, first: int) -> Any:
    """Logits by the cache: `first` tokens at once, then one by one, which are those given back."""
    batch, length = tokens.shape
    mask = jnp.ones(tokens.shape, bool)
    apart = model.apart(params)
    cache = model.prefill(params, tokens[:, :first], mask[:, :first], length)

    def step(cache, token):
        hidden, cache = model.extend(apart, cache, token[:, None], jnp.ones((batch, 1), bool))
        return cache, hidden[:, 0]

    _, rest = jax.lax.scan(step, cache, tokens[:, first:].T)
    return vocab.logits(steps.head_of(model, params, jnp.moveaxis(rest, 0, 1)))


def cached(given: Scene) -> float:
    """The decode with a cache, a quarter of the input first, against our full forward."""
    policy, tokens = given.policy, given.tokens
    first = tokens.shape[1] // 4
    found = _decoded(policy.model, policy.params, jnp.asarray(tokens), first)
    return difference(found, models.logits(policy, tokens)[:, first:])


def padding(given: Scene) -> float:
    """Seven tokens of padding on the left, against none."""
    left = ((0, 0), (7, 0))
    mask = np.pad(np.ones(given.tokens.shape, bool), left)
    found = models.logits(given.policy, np.pad(given.tokens, left), mask)
    return difference(found[:, 7:], models.logits(given.policy, given.tokens))


def export(given: Scene) -> float:
    """Their logits of what we write of their folder."""
    models.save_model(given.policy, given.work / "exported")
    return difference(peer.logits(peer.load(given.work / "exported"), given.tokens), given.wanted)


def described(given: Scene) -> float:
    """Their logits of what we write of the decoder alone, config.json and all."""
    models.save_model(dataclasses.replace(given.policy, json=None), given.work / "described")
    return difference(peer.logits(peer.load(given.work / "described"), given.tokens), given.wanted)


def round_trip(given: Scene) -> bool:
    """Whether import(export(x)) has the bits of x."""
    models.save_model(given.policy, given.work / "round")
    return same(models.load_model(given.work / "round", mesh=mesh()), given.policy)


def shards(given: Scene) -> bool:
    """Whether their folder of two shards or more, and ours, have the bits of the whole one."""
    theirs, ours = given.work / "shards", given.work / "ours"
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(given.policy.params))
    peer.write(given.case, theirs, shard_bytes=int(0.6 * size))
    policy = given.policy
    hub_export.save(
        ours, policy.config, policy.params, policy.json, lambda folder: None, int(0.6 * size)
    )
    found = [folder for folder in (theirs, ours) if len(list(folder.glob("*.safetensors"))) >= 2]
    return len(found) == 2 and all(
        same(models.load_model(folder, mesh=mesh()), policy) for folder in found
    )


def bfloat16(given: Scene) -> bool:
    """Whether a bfloat16 folder is computed in bfloat16 and written with the same bytes."""
    peer.write(given.case, given.work / "narrow", dtype="bfloat16")
    policy = models.load_model(given.work / "narrow", mesh=mesh())
    models.save_model(policy, given.work / "narrow again")
    kept = {str(leaf.dtype) for leaf in jax.tree.leaves(policy.params)} | {policy.config.dtype}
    one, other = (stored(given.work / name) for name in ("narrow", "narrow again"))
    return kept == {"bfloat16"} and one == other


def same(found: Policy, wanted: Policy) -> bool:
    """Whether two policies are the same decoder with the same bits."""
    pairs = zip(*(jax.tree.leaves(policy.params) for policy in (found, wanted)), strict=True)
    return found.config == wanted.config and all(
        a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs
    )


def stored(folder: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """dtype, shape and bytes of every tensor of a folder."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in safetensors.deserialize(file.read_bytes()):
            found[name] = tensor["dtype"], list(tensor["shape"]), bytes(tensor["data"])
    return found


@dataclasses.dataclass(frozen=True)
class Property:
    """What is measured, what tables call it and say of it, what it must be (`page.holds`)."""

    measure: Callable[[Scene], float | int | bool]
    title: str
    about: str
    limit: float | int | bool


CLOSE = 1e-4
PROPERTIES: Mapping[str, Property] = MappingProxyType(
    {
        "logits": Property(
            logits, "logits", "ours and theirs, 2 inputs of 48 tokens, all positions", CLOSE
        ),
        "greedy": Property(
            greedy,
            "greedy",
            "tokens of the arg max continuation of 3 prompts: our sampler, side by side; their "
            "`generate`, one by one; no end",
            CONTINUED,
        ),
        "cached": Property(
            cached, "cached decode", "logits of 12 tokens at once, then one by one; at once", CLOSE
        ),
        "padding": Property(
            padding, "left padding", "logits with 7 tokens of padding on the left; none", CLOSE
        ),
        "export": Property(
            export, "export", "their logits of the folder that we write; of their own", CLOSE
        ),
        "described": Property(
            described,
            "new config",
            "likewise, config.json written from the decoder instead of copied",
            CLOSE,
        ),
        "round_trip": Property(
            round_trip, "round trip", "the bits of every parameter: import(export(x)), x", True
        ),
        "shards": Property(
            shards,
            "shards",
            "likewise: a folder of 2 shards, theirs and ours, and a whole one",
            True,
        ),
        "bfloat16": Property(
            bfloat16, "bf16", "the bytes of every tensor: their bfloat16 folder, our export", True
        ),
    }
)
