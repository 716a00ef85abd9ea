"""Real weights in bfloat16: do all move, and does KL fall as it does when computed in float32?

python -m experiments.reliability.masters --folder=PATH --workdir=DIR [--layers=10] [--seeds=3]

The folder is from Hugging Face, stored in bfloat16; its first layers are the student, the whole is
the teacher. `configs/hub.py` on small batches. Three updates at its own rate: which share of the
parameters has moved? Then `--updates` of them at `--rate`, with `student.dtype` as the folder has
it and float32: the sequence KL on fixed prompts before and after, paired by seed. Then an adapter,
trained as long at ten times its rate and merged into bfloat16: how far logits are from the
adapter's, and how far that had moved them. A second start in the workdir goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
import scipy.stats

from experiments.reliability import page
from opd import disk
from opd.engine import sharding
from opd.fields import to_dict
from opd.model.decoder import Decoder
from opd.run.players import folder, models, trained
from opd.run.settings import config as configs
from opd.run.settings.config import Config
from opd.run.training import train

ROOT = Path(__file__).parents[2]
DTYPES = ("bfloat16", "float32")
ABOUT = (
    "the sea", "a garden", "winter", "old maps", "bread", "rivers", "a clock", "music", "bridges",
    "sleep", "stars", "salt", "horses", "paper", "rain", "a harbour", "glass", "mountains", "tea",
    "letters", "birds", "a lamp", "snow", "wheels", "stone", "apples", "ships", "a mirror", "trees",
    "fire", "roads", "wool",
)  # fmt: skip
SHORT = "student"  # the folder in scratch
BATCH = {"prompts": 4, "group_size": 2}
HUB_RATE = 1e-5  # of configs/hub.py


def cut(whole: Path, layers: int, short: Path) -> None:
    """Writes a folder that has the first layers of another, and the rest of it as it is."""
    shutil.copytree(whole, short, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    described = json.loads((whole / "config.json").read_text())
    disk.dump_json(described | {"num_hidden_layers": layers}, short / "config.json")
    tensors = safetensors.numpy.load_file(whole / "model.safetensors")
    kept = {}
    for name, tensor in tensors.items():
        number = re.match(r"model\.layers\.(\d+)\.", name)
        if number is None or int(number[1]) < layers:
            kept[name] = tensor
    safetensors.numpy.save_file(kept, short / "model.safetensors", metadata={"format": "pt"})


def config(scratch: Path, options: argparse.Namespace, **changes: Any) -> Config:
    """`configs/hub.py` on small batches, with keys changed: optimizer__warmup=3."""
    values = runpy.run_path(str(ROOT / "configs" / "hub.py"))["get_config"]().to_dict()
    values |= BATCH
    values["data"] |= {"prompts": str(scratch / "prompts.jsonl"), "max_completion": options.length}
    values["student"]["path"], values["teacher"]["path"] = str(scratch / SHORT), options.folder
    values["evaluate"] |= {"split": "train", "prompts": len(ABOUT), "every": 10**6, "samples": 1}
    values["optimizer"]["microbatches"] = 1
    values["checkpoint"] |= {"every": 10**6, "keep": 1}
    for path, value in changes.items():
        part, key = path.split("__") if "__" in path else (None, path)
        (values if part is None else values[part])[key] = value
    return configs.build(values)


def moved(run: Path, student: Path) -> dict[str, float]:
    """Shares of the parameters that differ from the folder's: of the embedding, of all others."""
    found = trained.find(str(run))
    described = folder.described(found.workdir / "models" / "student")
    after = found.params(Decoder(described), sharding.make_mesh(), trained=True)
    before = models.load_model(student, "float32").params
    counts = {"embedding": [0, 0], "others": [0, 0]}
    for (path, new), old in zip(
        jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(before)
    ):
        part = "embedding" if "embedding" in jax.tree_util.keystr(path) else "others"
        counts[part][0] += int(np.sum(np.asarray(new) != np.asarray(old)))
        counts[part][1] += new.size
    counts["all"] = [sum(pair) for pair in zip(*counts.values())]
    return {name: changed / size for name, (changed, size) in counts.items()}


def merged(scratch: Path, options: argparse.Namespace) -> dict[str, float]:
    """An adapter's training, and its merge: what rounding takes of logits, and what moved them."""
    run = scratch / "adapter"
    changes = {
        "student__lora": {"rank": 8}, "updates": options.updates, "optimizer__warmup": 3,
        "optimizer__learning_rate": 10 * HUB_RATE,
    }  # fmt: skip
    trains(config(scratch, options, **changes), run)
    off, moves = models.merge_error(models.from_run(str(run)))
    return {"off": off, "moved": moves}


def trains(settled: Config, run: Path) -> None:
    """Trains to the end, or leaves where SIGTERM asked for it: a second start goes on."""
    if train.train(settled, run) is None:
        raise SystemExit(1)


def records(scratch: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A record a training: its part, seed, dtype and what came of it."""
    scratch.mkdir(parents=True, exist_ok=True)
    if not (scratch / SHORT / "model.safetensors").exists():
        shutil.rmtree(scratch / SHORT, ignore_errors=True)
        cut(Path(options.folder), options.layers, scratch / SHORT)
    (scratch / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Write a sentence about {one}."}) + "\n" for one in ABOUT)
    )
    for dtype in DTYPES:
        run = scratch / f"moved-{dtype}"
        trains(config(scratch, options, updates=3, student__dtype=dtype), run)
        yield {"part": "moved", "dtype": dtype} | moved(run, scratch / SHORT)
    yield {"part": "merge"} | merged(scratch, options)
    for seed in range(options.seeds):
        for dtype in DTYPES:
            run = scratch / f"{seed}-{dtype}"
            changes = {
                "seed": seed, "student__dtype": dtype, "updates": options.updates,
                "optimizer__learning_rate": options.rate, "optimizer__warmup": 3,
                "optimizer__decay": options.updates,
            }  # fmt: skip
            trains(config(scratch, options, **changes), run)
            start, end = (line["kl"] for line in disk.read_jsonl(run / "evaluations.jsonl"))
            lines = disk.read_jsonl(run / "metrics.jsonl")
            yield {
                "part": "kl", "seed": seed, "dtype": dtype, "start": start, "end": end,
                "norms": [line["gradient_norm"] for line in lines],
                "limited": lines[-1]["limited"],
            }  # fmt: skip


def summary(found: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Shares that moved; KL by seed, and bfloat16's end less float32's with a 95 % t interval."""
    ends = {
        dtype: [one["end"]["value"] for one in found if one.get("dtype") == dtype and "end" in one]
        for dtype in DTYPES
    }
    difference = np.subtract(ends["bfloat16"], ends["float32"])
    mean, count = float(difference.mean()), len(difference)
    wide = scipy.stats.t.ppf(0.975, count - 1) * difference.std(ddof=1) / np.sqrt(count)
    optimizer = to_dict(config(Path(), options))["optimizer"]
    return {
        "folder": Path(options.folder).name,
        "setting": BATCH | {key: getattr(options, key) for key in ("layers", "length", "updates")},
        "optimizer": optimizer | {"learning_rate": options.rate},
        "runs": list(found),
        "difference": {"mean": mean, "low": mean - wide, "high": mean + wide},
    }


def table(record: Mapping[str, Any]) -> str:
    """The README's table."""
    lines = ["| computed in | moved: embedding | others | all |", "|---|---|---|---|"]
    for one in record["runs"]:
        if one["part"] == "moved":
            shares = " | ".join(
                f"{100 * one[part]:.2f} %" for part in ("embedding", "others", "all")
            )
            lines.append(f"| {one['dtype']} | {shares} |")
    lines += ["", "| seed | computed in | KL before | KL after |", "|---|---|---|---|"]
    for one in record["runs"]:
        if one["part"] == "kl":
            start, end = one["start"], one["end"]
            lines.append(
                f"| {one['seed']} | {one['dtype']} | {start['value']:.1f} | "
                f"{end['value']:.1f} ({end['low']:.1f} to {end['high']:.1f}) |"
            )
    merge = next(one for one in record["runs"] if one["part"] == "merge")
    found = record["difference"]
    lines.append(
        f"\nAn adapter merged into bfloat16: logits are up to {merge['off']:.2g} from the "
        f"adapter's, which had moved them by up to {merge['moved']:.2g}."
    )
    lines.append(
        f"\nBfloat16's KL after, less float32's, paired by seed: {found['mean']:.1f} nats "
        f"({found['low']:.1f} to {found['high']:.1f})."
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """All trainings, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=16)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-4)
    options = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    found = []
    for record in records(Path(options.workdir), options):
        print(json.dumps(record), flush=True)
        found.append(record)
    page.write("masters", summary(found, options), table)


if __name__ == "__main__":
    main()
