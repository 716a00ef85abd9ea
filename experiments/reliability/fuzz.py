"""Broken files and strange settings: each must be a correct run, or one line and exit code 2.

python -m experiments.reliability.fuzz [--inputs=1500] [--seed=0] [--targets=NAME,...]

Valid inputs are damaged at random: nodes of JSON are exchanged for strange ones, removed or moved,
bytes are flipped, inserted, cut. Each goes through the door that a command takes it through, in
this process. A failure is any exception but a ValueError of one line, more than `SLOWEST` seconds,
a new file, or an unpickling.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import io
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.reliability import page
from opd.data import conversation, hub_tokenizer, pipeline
from opd.data.chat import PLAIN, Template
from opd.data.config import DataConfig
from opd.run.players import hub
from opd.run.settings import command, launch
from opd.run.settings import config as configs
from opd.run.store import checkpoint
from tests.run.players import folders

SLOWEST = 20.0  # seconds: a tokenizer of any size loads in less
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 1e308, -0.0, 0.5, float("nan"),
    float("inf"), "", " ", "x", "0", "\x00", "\ud800", "é\u202e", "../../etc/passwd", "/dev/zero",
    "x" * 100_000, [], {}, [[]], [None], {"": None}, [{}] * 3, "<|end|>", "{{ 1 }}", "None",
)  # fmt: skip


# --- damage --------------------------------------------------------------------------------------


def paths(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Where every node of a JSON value is."""
    yield at
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, item in items:
        yield from paths(item, (*at, key))


def damaged(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to three nodes exchanged, removed, doubled, renamed or nested."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        # Few nodes are near the top, and what is there matters most.
        places = [at for at in paths(value) if at]
        if not places:
            return rng.choice(STRANGE)
        depth = rng.choice([len(at) for at in places])
        *parents, key = rng.choice([at for at in places if len(at) == depth])
        part = value
        for parent in parents:
            part = part[parent]
        match rng.randrange(6):
            case 0 | 1:
                part[key] = rng.choice(STRANGE)
            case 2:
                del part[key]
            case 3 if isinstance(part, dict):
                part[rng.choice(("", "x", f"{key}s", str(key).upper(), "__class__"))] = part.pop(
                    key
                )
            case 3 | 4:
                part[key] = rng.choice(([part[key]], {"x": part[key]}, str(part[key])))
            case 5 if isinstance(part, list):
                part.insert(key, copy.deepcopy(part[key]))
    return value


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Bytes with some flipped, inserted, removed, or the end cut off."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(content) or 1)
        # The head decides what the rest is taken for.
        at = min(at, rng.choice((8, 64, len(content))))
        match rng.randrange(5):
            case 0 if content:
                content[at % len(content)] ^= 1 << rng.randrange(8)
            case 1:
                content[at:at] = rng.randbytes(rng.choice((1, 4, 64)))
            case 2:
                del content[at : at + rng.choice((1, 4, 64))]
            case 3:
                del content[at:]
            case 4:
                content[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\0" * 7))
    return bytes(content)


def rewrite(path: Path, rng: random.Random) -> None:
    """Damages a file: JSON by its nodes, mostly; else by its bytes."""
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.7:
        path.write_text(json.dumps(damaged(json.loads(content), rng)), encoding="utf-8")
    else:
        path.write_bytes(flipped(content, rng))


# --- what is put to the test ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scene:
    """Valid things to damage."""

    folder: Path  # a Hugging Face folder
    checkpoints: Path  # of two steps
    place: Path  # where damaged copies go, empty


STEPS = {2: np.float32(2), 4: np.float32(4)}


def scene(folder: Path) -> Scene:
    """Valid things, made in a folder: a model with its tokenizer, a training's checkpoints."""
    with checkpoint.Checkpoints(folder / "checkpoints", None) as checkpoints:
        for step, value in STEPS.items():
            tree = {"params": jnp.full((64, 64), value), "count": jnp.asarray(step)}
            checkpoints.save(step, tree, {"update": step}, {"uses": step})
    return Scene(folders.write(folder / "valid"), folder / "checkpoints", folder / "damaged")


def _copied(scene: Scene) -> Path:
    shutil.copytree(scene.folder, scene.place / "folder")
    return scene.place / "folder"


def config_keys(scene: Scene, rng: random.Random) -> None:
    """A config whose values are strange."""
    values = configs.to_dict(configs.Config())
    configs.build(damaged(json.loads(json.dumps(values)), rng))


def command_line(scene: Scene, rng: random.Random) -> None:
    """Flags as people mistype them."""
    keys = ["updates", "method.name", "method.gamma", "data.task", "student.path", "seed", "chunk"]
    words = [
        "",
        "1",
        "-1",
        "1e9",
        "x",
        "nan",
        "None",
        "()",
        "'",
        "opd@",
        "opd@k=4",
        "@",
        "a;b",
        "\0",
    ]
    flags = ["--config=configs/debug.py"]
    for _ in range(rng.randrange(4)):
        key, word = rng.choice(keys), rng.choice(words)
        flags.append(
            rng.choice((f"--config.{key}={word}", f"-config.{key}", f"--{key}={word}", word))
        )
    rng.shuffle(flags)
    launch.parse(["train", *flags])


LINES = (
    {"prompt": "what is 1 + 1?", "answer": "2"},
    {"messages": [{"role": "user", "content": "hi"}], "answer": 3},
    {"prompt": [{"role": "user", "content": "hi"}], "system": "be short", "answer": 0.5},
)
# What the valid folder's template has no place for.
REFUSED = (
    {
        "messages": [
            {"role": "system", "content": "be short"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "chat_template_kwargs": {"enable_thinking": False},
    },
)


def prompt_lines(scene: Scene, rng: random.Random) -> None:
    """A file of prompts with damaged lines, read and tokenised with the folder's template."""
    path = scene.place / "prompts.jsonl"
    lines = [json.dumps(rng.choice(LINES)) for _ in range(12)]
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(damaged(rng.choice(LINES + REFUSED), rng))
    content = "\n".join(lines).encode()
    path.write_bytes(flipped(content, rng) if rng.random() < 0.3 else content)
    config = DataConfig(
        task="jsonl", prompts=str(path), max_completion=4, tokenizer=str(scene.folder)
    )
    pipeline.load(config)


def tokenizer_files(scene: Scene, rng: random.Random) -> None:
    """tokenizer.json and what stands beside it."""
    folder = _copied(scene)
    names = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
    rewrite(folder / rng.choice(names), rng)
    hub_tokenizer.load(folder, PLAIN).encode_prompt("what is 1 + 1?")


def weight_files(scene: Scene, rng: random.Random) -> None:
    """config.json, headers of safetensors, and an index."""
    folder = _copied(scene)
    index = folder / "model.safetensors.index.json"
    names = ["config.json", "model.safetensors"]
    if rng.random() < 0.4:
        whole = folder / "model.safetensors"
        whole.rename(folder / "model-00001-of-00001.safetensors")
        listed = {name: "model-00001-of-00001.safetensors" for name in _tensors(scene.folder)}
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": listed}))
        names = ["config.json", index.name, "model-00001-of-00001.safetensors"]
    rewrite(folder / rng.choice(names), rng)
    hub.look(folder)


def _tensors(folder: Path) -> list[str]:
    content = (folder / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return [name for name in header if name != "__metadata__"]


def checkpoints(scene: Scene, rng: random.Random) -> None:
    """A step with a file that is flipped somewhere, cut or gone: the one before counts."""
    folder = scene.place / "checkpoints"
    shutil.copytree(scene.checkpoints, folder)
    hurt = rng.choice(list(STEPS))
    path = rng.choice(sorted(p for p in (folder / str(hurt)).rglob("*") if p.is_file()))
    if rng.random() < 0.2:
        path.unlink()
    else:
        path.write_bytes(flipped(path.read_bytes(), rng))
    wanted = checkpoint.abstract({"params": jnp.zeros((64, 64)), "count": jnp.asarray(0)})
    with contextlib.redirect_stderr(io.StringIO()), checkpoint.Checkpoints(folder, None) as there:
        last = there.restore(wanted)
    step = int(last.tree["count"])
    whole = np.array_equal(last.tree["params"], np.full((64, 64), STEPS[step]))
    told = last.note == {"update": step} and int(last.memory["uses"]) == step
    if not whole or not told:
        raise AssertionError(f"{path.relative_to(folder)} is damaged, and step {step} not whole")
    if step != max(STEPS):
        raise ValueError(f"checkpoint {hurt} is damaged")


PIECES = (
    "{{ messages }}", "{{ messages[0].content }}", "{% for m in messages %}", "{% endfor %}",
    "{% if true %}", "{% endif %}", "{% macro f(x) %}", "{% endmacro %}", "{{ f(1) }}",
    "{{ f(f(1)) }}", "{{ ''.__class__.__mro__ }}", "{{ messages.__class__ }}", "{% set s = 'x' %}",
    "{% set s = s ~ s %}", "{{ s * 10**9 }}", "{{ 'x' * 2**40 }}", "{{ 10 ** 10 ** 10 }}",
    "{% for i in range(100000) %}", "{% for j in range(10**9) %}", "{{ raise_exception('no') }}",
    "{{ strftime_now('%Y') }}", "{{ strftime_now }}", "{{ cycler.__init__.__globals__ }}",
    "{{ lipsum.__globals__ }}", "{{ namespace(a=1).__init__ }}", "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}", "{{ messages|tojson }}", "{{ 'x'|center(10**9) }}",
    "{{ '%1000000000d'|format(1) }}", "{{ self.__init__ }}", "{{ messages|attr('__class__') }}",
    "{{ undefined.x }}", "{{ 1 / 0 }}", "{% extends 'x' %}", "{{ bos_token }}", "text", "{%", "}}",
    "{{ namespace.__init__.__globals__ }}", "{{ dict(__class__=1) }}", "{% set messages = [] %}",
    "{% do messages.append(1) %}", "{{ messages.append(1) }}", "{% call f(1) %}", "{% endcall %}",
)  # fmt: skip


def chat_templates(scene: Scene, rng: random.Random) -> None:
    """Programs in the template's language, some of which want out, or never end."""
    source = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 9)))
    template = Template(source, {"bos_token": "<|turn|>"}, "chat_template")
    text = template.render(conversation.of_text("hi"))
    if "<class" in text or "root:" in text:
        raise AssertionError(f"{source!r} shows {text[:200]!r}")


TARGETS: Mapping[str, Callable[[Scene, random.Random], None]] = {
    "config keys": config_keys,
    "command line": command_line,
    "prompt lines": prompt_lines,
    "tokenizer files": tokenizer_files,
    "weight files": weight_files,
    "chat templates": chat_templates,
    "checkpoints": checkpoints,
}


def attempt(target: str, seed: int, scene: Scene) -> tuple[str, str | None]:
    """(`accepted` or `refused`, what is wrong with that or None) of one input."""
    # A place of its own: some of what is read is remembered by its path.
    scene = dataclasses.replace(scene, place=scene.place / f"{target} {seed}")
    scene.place.mkdir(parents=True)
    rng, began = random.Random(f"{target} {seed}"), time.perf_counter()
    outcome, wrong = "accepted", None
    before = set(Path.cwd().iterdir())
    try:
        TARGETS[target](scene, rng)
    except ValueError as error:
        outcome = "refused"
        lines = command.message(error).splitlines()
        if len(lines) != 1 and not (target == "command line" and len(lines) <= 3):
            wrong = f"a message of {len(lines)} lines: {str(error)[:300]!r}"
        if os.environ.get("SHOW"):
            print(target, seed, lines[0][:300])
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome, wrong = "refused", "".join(traceback.format_exception(error))[-1500:]
    seconds = time.perf_counter() - began
    shutil.rmtree(scene.place)
    if wrong is None and seconds > SLOWEST:
        wrong = f"{seconds:.1f} s"
    if wrong is None and set(Path.cwd().iterdir()) != before:
        wrong = "a new file in the working directory"
    return outcome, wrong


def no_pickles(event: str, arguments: tuple) -> None:
    """An audit hook: nothing that is read may be unpickled."""
    if event == "pickle.find_class":
        raise pickle.UnpicklingError(f"a pickle asks for {arguments}")


def run(targets: Sequence[str], inputs: int, seed: int) -> dict[str, Any]:
    """So many inputs of every target."""
    sys.addaudithook(no_pickles)
    record: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        valid = scene(Path(name))
        for target in targets:
            outcomes = {"accepted": 0, "refused": 0}
            failures, slowest = [], 0.0
            for number in range(inputs):
                began = time.perf_counter()
                outcome, wrong = attempt(target, seed * 1_000_000 + number, valid)
                slowest = max(slowest, time.perf_counter() - began)
                outcomes[outcome] += 1
                if wrong is not None:
                    failures.append({"seed": seed * 1_000_000 + number, "wrong": wrong})
                    print(f"{target} {number}: {wrong}", flush=True)
            record[target] = outcomes | {"slowest": round(slowest, 2), "failures": failures}
            print(
                target, outcomes, f"{len(failures)} failures, slowest {slowest:.2f} s", flush=True
            )
    return record


def table(record: Mapping[str, Any]) -> str:
    """The README's table."""
    lines = [
        "| what | inputs | accepted | refused in one line | failures | slowest, s |",
        "|---|---|---|---|---|---|",
    ]
    for target, one in record["targets"].items():
        failures = len(one["failures"])
        counts = one["accepted"] + one["refused"], one["accepted"], one["refused"] - failures
        row = (target, *counts, failures, one["slowest"])
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """All targets, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--inputs", type=int, default=1500, help="of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", default=",".join(TARGETS))
    options = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    before = page.read("fuzz").get("targets", {})
    targets = before | run(options.targets.split(","), options.inputs, options.seed)
    page.write("fuzz", {"seed": options.seed, "targets": targets}, table)


if __name__ == "__main__":
    main()
