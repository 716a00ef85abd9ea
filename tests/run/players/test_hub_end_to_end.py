"""Two folders, from comparison to a completion by transformers: the commands as a user has them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.run.players import folders

ROOT = Path(__file__).parents[3]
SMALL = (
    "--config.data.max_completion=6",
    "--config.prompts=4",
    "--config.updates=2",
    "--config.evaluate.prompts=4",
    "--config.probe.groups=8",
    "--config.probe.batch=8",
    "--config.probe.rows=opd;opd_sampled",  # every row's figures: test_compare.py
    "--config.student.lora.rank=2",
    "--config.compare.arms=opd",
)


def run(module, *flags):
    """A command that must succeed; what it printed."""
    asked = [sys.executable, "-m", f"experiments.{module}", *map(str, flags)]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two players, prompts, and the workdir of a student that was trained."""
    folder = tmp_path_factory.mktemp("whole")
    folders.write(folder / "teacher", vocab=417, width=24)
    folders.write(folder / "student", seed=1)
    folders.write_prompts(folder / "prompts.jsonl", 40)
    given = (
        "--config=configs/hub.py",
        f"--config.teacher.path={folder / 'teacher'}",
        f"--config.student.path={folder / 'student'}",
        f"--config.data.prompts={folder / 'prompts.jsonl'}",
        *SMALL,
    )
    run("compare", *given, f"--workdir={folder / 'compared'}")
    run("train", *given, f"--workdir={folder / 'run'}")
    run("export", f"--workdir={folder / 'run'}", f"--path={folder / 'whole'}")
    run("export", f"--workdir={folder / 'run'}", f"--path={folder / 'adapter'}", "--adapter")
    return folder


def tensors(path):
    return safetensors.numpy.load_file(path)


@pytest.mark.slow
def test_a_comparison_has_its_report(trained):
    results = json.loads((trained / "compared" / "results.json").read_text())
    assert {entry["name"] for entry in results["estimators"]} >= {"opd", "opd_sampled"}
    assert (trained / "compared" / "report.html").is_file()


@pytest.mark.slow
def test_an_export_is_the_base_and_the_adapter(trained):
    """W + (alpha / r) B A, of the folder that the student started from; all else as it was."""
    base, whole = (tensors(trained / name / "model.safetensors") for name in ("student", "whole"))
    adapter = tensors(trained / "adapter" / "adapter_model.safetensors")
    said = json.loads((trained / "adapter" / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"], said["peft_type"]) == (2, 4.0, "LORA")
    assert base.keys() == whole.keys()
    moved = 0
    for name, matrix in base.items():
        at = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{at}.lora_A.weight" in adapter:
            down, up = (adapter[f"{at}.lora_{side}.weight"] for side in "AB")
            added = said["lora_alpha"] / said["r"] * up @ down
            assert name.split(".")[-2] in said["target_modules"] and np.abs(added).max() > 0
            np.testing.assert_allclose(whole[name], matrix + added, rtol=1e-5, atol=1e-6)
            moved += 1
        else:
            np.testing.assert_array_equal(whole[name], matrix)
    assert 2 * moved == len(adapter) == 2 * 7 * 2  # seven matrices of two layers


@pytest.mark.slow
def test_transformers_goes_on_as_we_do(trained):
    transformers = pytest.importorskip("transformers")
    ours = run(
        "generate", f"--path={trained / 'whole'}", "--prompt=what is 3 + 3?", "--length=8",
        "--temperature=0",
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(trained / "whole")
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained / "whole")
    chat = [{"role": "user", "content": "what is 3 + 3?"}]
    given = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    # Padded ids are the likeliest where nothing masks them.
    padded = list(range(folders.IDS, 409))
    out = model.generate(**given, max_new_tokens=8, do_sample=False, suppress_tokens=padded)
    wanted = tokenizer.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
    assert ours == wanted + "\n"
