"""Models by folder, for a program of one's own: load one, ask it for logits, save it.

`opd.load_model`, `opd.logits` and `opd.save_model` are these.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from opd import draws, fields, processes, trees
from opd.data import hub_tokenizer, pipeline, tokenizers
from opd.data.chat import PLAIN, ChatConfig
from opd.data.hub_tokenizer import HubTokenizer
from opd.data.pipeline import DataConfig
from opd.data.tokenizers import Tokenizer
from opd.engine import programs, sharding, steps, vocab
from opd.engine.steps import Sampling
from opd.model import lora
from opd.model.decoder import Decoder, DecoderConfig
from opd.model.lora import Lora
from opd.run.players import folder, hub, hub_export, trained
from opd.run.players.players import PlayerConfig, TeacherConfig, tokenized
from opd.types import Array, Params


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model, its parameters, and what its folder had beside them.

    >>> import jax
    >>> import opd
    >>> from opd.model.decoder import Decoder, DecoderConfig
    >>> config = DecoderConfig(vocab=64, width=8, layers=1, heads=2, max_length=32)
    >>> policy = opd.Policy(config, Decoder(config).init(jax.random.key(0)))
    >>> policy.model.hidden(policy.params, *2 * [jax.numpy.ones((1, 3), int)]).shape
    (1, 3, 8)
    """

    config: DecoderConfig
    params: Params
    tokenizer: Tokenizer | None = None  # None: the folder has none
    json: Mapping[str, Any] | None = None  # the folder's config.json

    @property
    def model(self) -> Decoder:
        """The decoder as pure functions of parameters."""
        return Decoder(self.config)

    @property
    def merged(self) -> Policy:
        """The same without an adapter: what it adds is in the matrices, rounded to their dtype."""
        return self._plain(lora.merged)

    @property
    def base(self) -> Policy:
        """What an adapter was put upon."""
        return self._plain(lora.without)

    def _plain(self, made: Callable[[Params, Lora], Params]) -> Policy:
        if self.config.lora is None:
            return self
        plain = dataclasses.replace(self.config, lora=None)
        return dataclasses.replace(self, config=plain, params=made(self.params, self.config.lora))


def load_model(
    path: str | os.PathLike[str],
    dtype: str | None = None,
    mesh: Mesh | None = None,
    chat: ChatConfig = PLAIN,
) -> Policy:
    """A Hugging Face folder's model, tokenizer included.

    Args:
        path: the folder: config.json and safetensors.
        dtype: bfloat16, float32 or float64, of parameters and computation; None: the checkpoint's.
        mesh: where the parameters go; None: all devices.
        chat: how the tokenizer writes prompts.

    Raises:
        ValueError: an unknown architecture or rope type, a missing or damaged file, a tensor of
            another shape, a broken tokenizer or template; one line.

    >>> import opd
    >>> opd.load_model("no/such/folder")
    Traceback (most recent call last):
    ValueError: no/such/folder: no such folder; a folder with config.json and safetensors is allowed
    """
    return loaded(*look(Path(path), dtype, chat), mesh)


def look(
    path: Path, dtype: str | None = None, chat: ChatConfig = PLAIN
) -> tuple[hub.Folder, HubTokenizer | None]:
    """A folder's checkpoint and tokenizer, looked at; None: it has no tokenizer.

    Raises:
        ValueError: as `load_model`.
    """
    hub.refuse_no_checkpoint(path)
    if not hub_tokenizer.has_tokenizer(path):
        return hub.look(path, dtype), None
    tokenizer = hub_tokenizer.load(path, chat)
    return hub.look(path, dtype, tokenizer.vocab), tokenizer


def loaded(
    checkpoint: hub.Folder, tokenizer: HubTokenizer | None, mesh: Mesh | None = None
) -> Policy:
    """What was looked at, with its parameters; `mesh` is where they go, None: all devices.

    Raises:
        ValueError: no end of the tokenizer's has a row.
    """
    if tokenizer is not None:
        tokenizer = tokenizer.within(checkpoint.config.vocab)
    params = hub.load(checkpoint, sharding.make_mesh() if mesh is None else mesh)
    return Policy(checkpoint.config, params, tokenizer, checkpoint.json)


def logits(policy: Policy, tokens: Array, mask: Array | None = None) -> Array:
    """Logits [B, T, V] of a policy on tokens [B, T], in float32 or wider; t predicts token t + 1.

    All of them at once: for small inputs. `mask` [B, T] is false on padding, which may stand on
    the left. Padded ids, where the tokenizer has fewer than V, have the logit -1e30.

    >>> import jax
    >>> import opd
    >>> from opd.model.decoder import Decoder, DecoderConfig
    >>> config = DecoderConfig(vocab=64, width=8, layers=1, heads=2, max_length=32)
    >>> policy = opd.Policy(config, Decoder(config).init(jax.random.key(0)))
    >>> opd.logits(policy, [[1, 2, 3]]).shape
    (1, 3, 64)
    """
    tokens = jnp.asarray(tokens, jnp.int32)
    mask = jnp.ones(tokens.shape, bool) if mask is None else jnp.asarray(mask, bool)
    return _logits(policy.model, policy.params, tokens, mask)


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Decoder, params: Params, tokens: Array, mask: Array) -> Array:
    hidden = model.hidden(params, tokens, mask)
    return vocab.logits(steps.head_of(model, params, hidden))


def complete(
    policy: Policy,
    prompts: Sequence[str],
    length: int,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> list[str]:
    """A completion of at most `length` tokens for each prompt; temperature 0 is the arg max.

    Raises:
        ValueError: no tokenizer, a prompt without tokens, or more than the model reads.
    """
    tokenizer = policy.tokenizer
    if tokenizer is None:
        raise ValueError("the model's folder has no tokenizer.json: nothing can be written")
    ids = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    for each in ids:
        tokenizers.refuse_rowless(tokenizer, each, policy.config.vocab)
    width = max(map(len, ids))
    if not min(map(len, ids)):
        raise ValueError("a prompt has no tokens: allowed is one or more")
    if width + length > policy.config.max_length:
        raise ValueError(
            f"a prompt of {width} tokens and a completion of {length}: the model reads "
            f"{policy.config.max_length}"
        )
    prompt = np.full((len(ids), width), tokenizer.pad_id, np.int32)
    mask = np.zeros(prompt.shape, bool)
    for row, tokens in enumerate(ids):
        prompt[row, width - len(tokens) :], mask[row, width - len(tokens) :] = tokens, True
    sampling = Sampling(length, tokenizer.eos_ids, tokenizer.pad_id, temperature, top_k, top_p)
    mesh = _mesh(policy.params)
    rows = programs.batch_rows(prompt, mask, 1)
    key = draws.key(seed, 0, "action")
    drawn = programs.rollout(mesh, policy.model, policy.params, **rows, key=key, sampling=sampling)
    completions = zip(*processes.on_host((drawn.tokens, drawn.mask)), strict=True)
    return [tokenizer.decode(row[graded].tolist()) for row, graded in completions]


def _mesh(params: Params) -> Mesh:
    """Where parameters lie; all devices, if on none."""
    where = getattr(jax.tree.leaves(params)[0], "sharding", None)
    if isinstance(where, NamedSharding):
        return where.mesh
    return sharding.make_mesh(None if where is None else list(where.device_set))


def save_model(policy: Policy, path: str | os.PathLike[str]) -> None:
    """Writes a folder that transformers and vLLM load as it is, tokenizer included.

    Parameters are rounded to the config's `param_dtype`. An adapter goes into the matrices; what
    their rounding does to it is said on standard error.

    Args:
        policy: a model with its parameters.
        path: the folder, which is not there yet.

    Raises:
        ValueError: no family has such a decoder, or the folder is there already.

    >>> import tempfile
    >>> import jax
    >>> import opd
    >>> from opd.model.decoder import Decoder, DecoderConfig
    >>> config = DecoderConfig(vocab=64, width=8, layers=1, heads=2, max_length=32)
    >>> policy = opd.Policy(config, Decoder(config).init(jax.random.key(0)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     opd.save_model(policy, f"{folder}/model")
    ...     opd.load_model(f"{folder}/model").config == config
    True
    """
    tokenizer, base = policy.tokenizer, policy.json
    hub_export.refuse_taken(Path(path))
    if policy.config.lora is not None:
        print(merge_note(policy), file=sys.stderr)
        policy = policy.merged
    if base is None:
        base = hub_export.family_of(policy.config).config_json(policy.config)
        if tokenizer is not None:
            base |= {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}

    def beside(target: Path) -> None:
        if isinstance(tokenizer, HubTokenizer):
            hub_tokenizer.copy(tokenizer.folder, target)
        elif tokenizer is not None:
            hub_tokenizer.write(tokenizer, target)

    hub_export.save(Path(path), policy.config, policy.params, base, beside)


# Tokens that a merge is judged on: rows, and tokens a row.
MERGE_TOKENS = 4, 32


def merge_error(policy: Policy) -> tuple[float, float]:
    """How far logits of the merged model are from the adapter's, and how far that had moved them.

    Both are max |difference| over 128 tokens drawn evenly from the vocabulary, computed in float32
    or wider: what the rounding of the matrices does, and nothing else.
    """
    rows, length = MERGE_TOKENS
    shape = rows, min(length, policy.config.max_length)
    tokens = np.random.default_rng(0).integers(policy.model.tokens, size=shape)

    def computed(policy: Policy) -> Array:
        wide = str(trees.wider(policy.config.dtype))
        return logits(
            dataclasses.replace(policy, config=dataclasses.replace(policy.config, dtype=wide)),
            tokens,
        )

    adapted = computed(policy)
    off, moved = (
        jnp.max(jnp.abs(computed(plain) - adapted)) for plain in (policy.merged, policy.base)
    )
    return float(off), float(moved)


def merge_note(policy: Policy) -> str:
    """What a merge loses, and what loses less, in one line."""
    off, moved = merge_error(policy)
    dtype = policy.config.param_dtype
    said = (
        f"merged into {dtype}: logits are up to {off:.2g} from the adapter's, which had moved them "
        f"by up to {moved:.2g}"
    )
    if dtype == "bfloat16":
        said += "; --adapter exports it without loss, --dtype=float32 merges it without rounding"
    return said


def save_adapter(policy: Policy, path: str | os.PathLike[str]) -> None:
    """Writes a student's adapter alone, as PEFT loads it on top of the model it was trained on.

    Raises:
        ValueError: it has none, or the folder is there already.
    """
    if policy.config.lora is None:
        raise ValueError("the model has no adapter: it was trained as a whole")
    hub_export.save_adapter(Path(path), policy.config, policy.params, policy.json or {})


def from_run(name: str, mesh: Mesh | None = None, dtype: str | None = None) -> Policy:
    """The student that a training left: WORKDIR, WORKDIR@STEP or WORKDIR@best.

    Args:
        name: of the run.
        mesh: where the parameters go; None: all devices.
        dtype: of parameters and computation; None: the student's own, which training's are rounded
            to. An adapter stays as it was trained.

    Raises:
        ValueError: no such workdir or checkpoint, or another dtype.
    """
    source = trained.find(name)
    student = source.workdir / "models" / "student"
    config = folder.described(student)
    if dtype is not None:
        config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
    params = source.params(Decoder(config), sharding.make_mesh() if mesh is None else mesh)
    theirs = student / hub.KEPT
    if theirs.is_dir():
        json = hub.read_json(theirs / "config.json")
        tokenizer = hub_tokenizer.load(theirs).within(Decoder(config).tokens)
        return Policy(config, params, tokenizer, json)
    return Policy(config, params, _tokenizer_of(source.workdir))


def _tokenizer_of(workdir: Path) -> Tokenizer:
    """The tokenizer of a training's data."""
    begun = hub.read_json(workdir / "config.json")["config"]
    data = fields.build(begun.get("data", {}), DataConfig, "config.data")
    kinds = {"student": PlayerConfig, "teacher": TeacherConfig}
    players = (
        fields.build(begun.get(name, {}), kind, f"config.{name}") for name, kind in kinds.items()
    )
    return pipeline.load(tokenized(data, *players), workdir).tokenizer
