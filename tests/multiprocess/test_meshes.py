"""One seed trains the same on one device and on eight, however the mesh's axes share these."""

import json
import os
import subprocess
import sys

import pytest
from several import ROOT, ended, jsonl, same

AXES = "data", "fsdp", "tensor"
SIZES = 1, 2, 4, 8
ALL = [(data, fsdp, 8 // (data * fsdp)) for data in SIZES for fsdp in SIZES if data * fsdp <= 8]
# All completions of every evaluation are written, and so compared.
SAYS = {"evaluate.every": 1, "evaluate.samples": 8}
KINDS = {
    "grpo": {"method.name": "grpo"},
    "ppo": {"method.name": "ppo"},
    "buffer": {"method.name": "opd@behavior=buffer", "buffer.size": 6},
    "lora": {"student.lora.rank": 2},
    "probe": {"probe.every": 1},
}
SOME = (8, 1, 1), (1, 4, 2), (2, 2, 2)


def name(shape, kind):
    return "x".join(map(str, shape)) + f"_{kind}"


def trained(folder, trainings, devices):
    """A process that runs them, by what `meshes` reads."""
    running = subprocess.Popen(
        [sys.executable, "-m", "tests.multiprocess.meshes", str(folder)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    running.stdin.write(json.dumps(trainings))
    running.stdin.close()
    running.stdin = None
    return running


def of(folder, kind, shape):
    """The keys of a training; all but the plain one start from the plain one's players."""
    keys = {f"mesh.{axis}": size for axis, size in zip(AXES, shape, strict=True)} | SAYS
    if kind == "opd":
        return keys
    models = folder / name(shape, "opd") / "models"
    return (
        keys
        | {f"{player}.path": str(models / player) for player in ("student", "teacher")}
        | KINDS[kind]
    )


@pytest.mark.deep
def test_a_training_does_not_depend_on_the_mesh(tmp_path):
    """The same rollouts token by token, and statistics to 1e-5; teacher and student are fitted."""
    assert len(ALL) == 10
    shapes = [(1, 1, 1), *ALL]
    plan = {
        name(shape, kind): of(tmp_path, kind, shape)
        for shape in shapes
        for kind in ("opd", *(KINDS if shape == (1, 1, 1) or shape in SOME else ()))
    }
    one = {key: keys for key, keys in plan.items() if key.startswith("1x1x1_")}
    eight = {key: keys for key, keys in plan.items() if key not in one}
    running = [trained(tmp_path, one, devices=1), trained(tmp_path, eight, devices=8)]
    for code, _, said in ended(running, timeout=3600):
        assert code == 0, said
    for key in eight:
        alone = tmp_path / name((1, 1, 1), key.partition("_")[2])
        assert jsonl(tmp_path / key / "rollouts.jsonl") == jsonl(alone / "rollouts.jsonl"), key
        same(tmp_path / key, alone)
