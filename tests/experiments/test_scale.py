"""Compiling ahead of time and planning: their arithmetic, what they read, what they refuse."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.scale import chips, hlo, job, knobs, measure, predict
from opd.engine import sharding
from opd.engine.steps import Sampling
from opd.engine.vocab import Pass
from opd.method import table
from opd.model.decoder import Decoder, DecoderConfig
from opd.run.settings import config as configs

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "scale").glob("[!_]*.py"))
SMALL = "configs/scale/qwen3_8b_to_0_6b.py"

LOOPS = """HloModule jit_f, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_body (p.1: (s32[], bf16[8,100])) -> (s32[], bf16[8,100]) {
  %p.1 = (s32[], bf16[8,100]{1,0:T(8,128)(2,1)}) parameter(0)
  %two = s32[] constant(2)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %x.1 = bf16[8,100]{1,0:T(8,128)(2,1)} get-tuple-element(%p.1), index=1
  %next = s32[] add(%i.1, %two)
  %cp = (TILED, TILED, u32[], u32[]) collective-permute-start(%x.1), source_target_pairs={{0,1}}
  %cpd = bf16[8,100]{1,0:T(8,128)(2,1)} collective-permute-done(%cp)
  ROOT %t.1 = (s32[], bf16[8,100]{1,0:T(8,128)(2,1)}) tuple(%next, %cpd)
}

%inner_cond (p.2: (s32[], bf16[8,100])) -> pred[] {
  %p.2 = (s32[], bf16[8,100]{1,0:T(8,128)(2,1)}) parameter(0)
  %six = s32[] constant(6)
  %i.2 = s32[] get-tuple-element(%p.2), index=0
  ROOT %lt.2 = pred[] compare(%i.2, %six), direction=LT
}

%outer_body (p.3: (s32[], bf16[8,100], f32[4])) -> (s32[], bf16[8,100], f32[4]) {
  %p.3 = (s32[], bf16[8,100]{1,0}, f32[4]{0}) parameter(0)
  %g = f32[16]{0} all-gather(%y), replica_groups=[2,4]<=[8], dimensions={0}
  %r = f32[4]{0} all-reduce(%y), replica_groups={{0,1},{2,3}}, to_apply=%add
  %w = (s32[], bf16[8,100]{1,0}) while(%t), condition=%inner_cond, body=%inner_body
  ROOT %t.3 = (s32[], bf16[8,100]{1,0}, f32[4]{0}) tuple(%i, %w, %r)
}

%outer_cond (p.4: (s32[], bf16[8,100], f32[4])) -> pred[] {
  %p.4 = (s32[], bf16[8,100]{1,0}, f32[4]{0}) parameter(0)
  ROOT %both = pred[] and(%one, %other)
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %s = f32[1,4]{1,0} reduce-scatter(%z), replica_groups={{0,1,2,3}}, dimensions={0}
  %big = TILED fusion(%x), calls=%f, metadata={op_name="jit(f)/while/body/layers/dot"}
  %fast = f32[512,1024]{1,0:T(8,128)S(1)} fusion(%x), kind=kLoop, calls=%f
  ROOT %w.2 = (s32[], TILED, f32[4]{0}) while(%t), condition=%outer_cond, body=%outer_body
}
""".replace("TILED", "bf16[8,100]{1,0:T(8,128)(2,1)}")


def test_what_runs_in_loops_counts_as_often_as_they_turn():
    """The outer loop depends on data and is said to turn 5 times; the inner goes 0, 2, 4."""
    found = hlo.collectives(*hlo.parse(LOOPS), turns=lambda number: 5 + number)
    tile = 8 * 128 * 2  # 100 columns fill 128
    assert found["collective-permute"] == {"count": 15, "bytes": 15 * tile}
    assert found["all-gather"] == {"count": 5, "bytes": 5 * 48}  # 64 bytes, 3 of 4 from elsewhere
    assert found["all-reduce"] == {"count": 5, "bytes": 5 * 16}  # 2 x 16 bytes x 1 / 2
    assert found["reduce-scatter"] == {"count": 1, "bytes": 48}  # 16 bytes are left of 64
    assert hlo.collectives(*hlo.parse(LOOPS))["collective-permute"]["count"] == 3


BESIDE = """HloModule jit_f

%start (x: f32[4]) -> f32[16] {
  %x = f32[4]{0} parameter(0)
  ROOT %g.1 = f32[16]{0} all-gather(%x), channel_id=7, replica_groups=NAMED
}

%done (x.1: f32[4]) -> f32[16] {
  %x.1 = f32[4]{0} parameter(0)
  ROOT %g.2 = f32[16]{0} all-gather(%x.1), channel_id=7, replica_groups=NAMED
}

%all-reduce-scatter.1 (x.2: f32[16]) -> f32[4] {
  %x.2 = f32[16]{0} parameter(0)
  %r = f32[16]{0} all-reduce(%x.2), channel_id=8, replica_groups=NAMED, to_apply=%add
  ROOT %mine = f32[4]{0} dynamic-slice(%r, %at), dynamic_slice_sizes={4}
}

ENTRY %main (y: f32[4]) -> f32[4] {
  %y = f32[4]{0} parameter(0)
  %s = f32[16]{0} fusion(%y), kind=kCustom, calls=%start
  %d = f32[16]{0} fusion(%s), kind=kCustom, calls=%done
  ROOT %rs = f32[4]{0} fusion(%d), kind=kCustom, calls=%all-reduce-scatter.1
}
""".replace("NAMED", "mesh['data'=3,'fsdp'=4] {'fsdp'}")


def test_what_runs_beside_other_work_counts_once():
    """One all-gather in two fusions, under one number; and a reduce-scatter as the TPU has it."""
    found = hlo.collectives(*hlo.parse(BESIDE))
    assert found == {
        "all-gather": {"count": 1, "bytes": 48},
        "reduce-scatter": {"count": 1, "bytes": 48},
    }


def test_the_largest_buffers_are_of_the_large_memory_and_named():
    first, *_ = hlo.largest(*hlo.parse(LOOPS))
    assert first == {"shape": "bf16[8,100]", "bytes": 2048, "name": "jit(f)/layers/dot"}


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[3,5]{1,0}", 60),
        ("f32[3,5]{1,0:T(8,128)}", 4 * 8 * 128),
        ("bf16[5,3]{0,1:T(8,128)(2,1)}", 2 * 8 * 128),
        ("pred[16]{0:T(256)}", 256),
        ("s32[]{:T(128)}", 4),
    ],
)
def test_tiles_are_filled_up(shape, size):
    (found,) = hlo.shapes(shape)
    assert found.bytes == size


def of(*arrays):
    """A module that makes these arrays, within a fusion."""
    lines = [f"  %a.{n} = {array} add(%x, %x)" for n, array in enumerate(arrays)]
    return hlo.parse("\n".join(["%fused (x: f32[]) -> f32[] {", *lines, "}"]))[0]


def test_logits_and_scores_are_found_wherever_they_are():
    assert hlo.positions(of("f32[2,3,50]{2,1,0}", "f32[50,16]{1,0}"), {50}, {16}) == 6
    assert hlo.positions(of("f32[50,7]{1,0}"), {50, 25}, {16}) == 7
    assert hlo.positions(of("f32[16,50]{1,0}"), {50}, {16}) == 0
    assert hlo.scores(of("f32[2,9,9]{2,1,0}", "f32[9,4]{1,0}"), {9}) == ["f32[2,9,9]"]
    assert hlo.scores(of("f32[2,9,10]{2,1,0}"), {9, 10}) == ["f32[2,9,10]"]


def test_what_is_held_and_must_not_be_is_said():
    found = {"update": {"scores_of_all_pairs": ["f32[9,9]"], "logits_of_positions": 8}}
    found["update"]["positions"] = 8
    assert [line.partition(" holds ")[2][:6] for line in measure.wrong(found)] == [
        "scores",
        "logits",
    ]
    assert not measure.wrong({"update": {"scores_of_all_pairs": [], "logits_of_positions": 7,
                                         "positions": 8}})  # fmt: skip


KERNEL = """HloModule jit_f

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %splash.1 = (f32[256,64]{1,0}, bf16[3,4,1024,64]{3,2,1,0}) custom-call(%a, %b, %q, %k, %v), custom_call_target="tpu_custom_call", operand_layout_constraints={s8[1,WIDTH]{2,1,0}, s8[1,WIDTH]{2,1,0}, bf16[3,4,1024,64]{3,2,1,0}, bf16[3,2,1024,64]{3,2,1,0}}, frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 256}"
}}, metadata={op_name="jit(f)/vmap(splash_mha_KIND_segmented)/pallas_call"}, backend_config={}
  %after = f32[16]{0} all-gather(%y), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %w)
}

%cond (p.4: (s32[], f32[4])) -> pred[] {
  %p.4 = (s32[], f32[4]{0}) parameter(0)
  ROOT %both = pred[] and(%one, %other)
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %loop = (s32[], f32[4]{0}) while(%x), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %out = f32[4]{0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


@pytest.mark.parametrize(
    ("kind", "width", "products", "blocks"),
    [("fwd", "4,4", 2, 10), ("fwd", "4,2", 2, 7), ("dq", "4,3", 3, 9), ("dkv", "3,4", 4, 9)],
)
def test_a_kernels_flops_are_of_the_blocks_that_it_visits(kind, width, products, blocks):
    """Four blocks of 256 tokens: up to the diagonal 10 of 16, with a window fewer; five turns.

    A kernel's description has line breaks in it: what comes after it is read too.
    """
    module, entry = hlo.parse(KERNEL.replace("WIDTH", width).replace("KIND", kind))
    once = products * 2 * 3 * 4 * blocks * 256 * 256 * 64
    found = {"count": 5, "flops": 5 * once, "flops_once": once}
    assert hlo.kernels(module, entry) == {f"splash_mha_{kind}": found}
    assert hlo.collectives(module, entry)["all-gather"]["count"] == 5
    alone = KERNEL.replace("bf16[3,4,1024,64]{3,2,1,0}, bf16[3,2", "bf16[4,1024,64]{2,1,0}, bf16[2")
    module, entry = hlo.parse(alone.replace("WIDTH", width).replace("KIND", kind))
    assert hlo.kernels(module, entry)[f"splash_mha_{kind}"]["flops_once"] == once // 3


TOO_MUCH = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 25.50G of 15.75G hbm.
Largest program allocations in hbm:

  1. Size: 4.00G
     Operator: op_name="jit(hidden)/while/body/layers/dot" source_file="decoder.py"
     Shape: f32[16,8,4,512,512]{4,3,2,1,0:T(8,128)}
     Unpadded size: 4.00G
"""


def test_what_the_compiler_refuses_is_read():
    found = measure.refused(TOO_MUCH, 2**30)
    assert found["hbm_used"] == int(26.5 * 2**30) and not found["fits"]
    assert found["largest_buffers"] == [
        {"shape": "f32[16,8,4,512,512]", "bytes": 4 * 2**30, "name": "jit(hidden)/layers/dot"}
    ]
    short = "the total memory required for HLO temporaries (256.00G) exceeds available HBM (15.75G)"
    assert measure.refused(short, 0)["hbm_used"] == 256 * 2**30


# ------------------------------------------------------------------------------------- configs


def read(path):
    module = {}
    exec(compile(path.read_text(), str(path), "exec"), module)
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_is_a_job_of_its_topology(path):
    module = read(path)
    kind, count = chips.topology(module["TOPOLOGY"])
    found = job.of(configs.build(module["get_config"]().to_dict()), job.nowhere(count))
    assert found.mesh.size == count and sum(found.resident.values()) < chips.CHIPS[kind].usable
    assert found.rows * (found.prompt + found.length) > 2**18
    assert f"{found.student.config.vocab:,}" == "151,936"


def test_published_sizes_are_those_of_their_names():
    """Parameters in billions, as the names round them."""
    for name, size in (("Qwen3-0.6B", 0.6), ("Qwen3-8B", 8.2), ("Qwen3-32B", 32.8)):
        player = configs.build({"student": {"path": name}}).student
        shapes = measure_parameters(job.decoder("student", player))
        assert shapes / 1e9 == pytest.approx(size, rel=0.02)


def measure_parameters(model):
    leaves = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)))
    return sum(math.prod(leaf.shape) for leaf in leaves)


def test_a_prediction_is_of_the_peaks():
    """One chip, no traffic: FLOPs over the peak, or bytes over the bandwidth, whichever is more."""
    module = read(ROOT / SMALL)
    found = job.of(configs.build(module["get_config"]().to_dict()), job.nowhere(16))
    chip = chips.CHIPS["v5e"]
    teacher = predict.predicted(found, chip, "teacher", {})
    tokens = found.prompt + found.length - 1
    flops = found.rows * found.teacher.matmul_flops(tokens, tokens)
    assert teacher["flops"] == flops
    assert teacher["predicted"]["seconds"]["compute"] == flops / 16 / 197e12
    sent = {"all-gather": {"count": 1, "bytes": 2000e9}}
    slow = predict.predicted(found, chip, "teacher", sent)["predicted"]
    assert slow["seconds"]["links"] == 10.0 and slow["bottleneck"] == "links"
    assert slow["mfu"]["at_worst"] < slow["mfu"]["at_best"] < 1


def small(**student):
    """A job of small decoders on eight devices: 4 groups of 4, 20 + 284 tokens, 46 ids."""
    sizes = {"vocab": 46, "layers": 2, "heads": 4, "kv_heads": 2, "tied": False, "max_length": 304}
    models = [
        Decoder(DecoderConfig(width=width, mlp=2 * width, **sizes), attention="blockwise")
        for width in (16, 24)
    ]
    config = configs.build(
        {"prompts": 4, "group_size": 4, "chunk": 40, "optimizer": {"microbatches": 2}}
    )
    return job.Job(
        config=config,
        mesh=sharding.make_mesh(jax.devices(), data=2, fsdp=2, tensor=2),
        student=dataclasses.replace(models[0], remat="full", **student),
        teacher=dataclasses.replace(models[1], rows=8),
        method=table.parse("opd"),
        sampling=Sampling(284, (1,), 0),
        scoring=Pass(chunk=40),
        prompt=20,
        length=284,
    )


@pytest.mark.parametrize(
    "name", ["rollout", "teacher", pytest.param("update", marks=pytest.mark.slow)]
)
def test_no_program_holds_all_logits_or_all_scores(name):
    """Of 4 rows of a device's own, 2 at a time, 40 of 284 positions have logits at once."""
    found = measure.measured(small(), chips.CHIPS["v5e"], name)
    assert found["fits"] and found["arguments"] > 0 and found["temporaries"] > 0
    assert not measure.wrong({name: found}) and found["scores_of_all_pairs"] == []
    most = {"rollout": 4, "teacher": 0, "update": 2 * 40}[name]
    assert found["positions"] == 4 * 284 and found["logits_of_positions"] <= most
    assert found["collectives"] and found["largest_buffers"]


@pytest.mark.slow
def test_scores_of_all_pairs_are_found_where_there_are_some():
    found = measure.measured(small(attention="plain"), chips.CHIPS["v5e"], "update")
    assert found["scores_of_all_pairs"] and measure.wrong({"update": found})


# ------------------------------------------------------------------------------------ commands


def called(module, *arguments, **environment):
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *arguments],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | environment,
    )  # fmt: skip


CONFIG = f"--config={SMALL}"
MISTAKES = [
    ("compile_tpu", [], "--config is missing"),
    ("compile_tpu", ["--config=configs/scale/none.py"], "no such file"),
    ("compile_tpu", [CONFIG, "--topology=v5e:5x5"], "v5e:4x4"),
    ("compile_tpu", [CONFIG, "--topology=v9:4x4"], "--topology=v9:4x4"),
    ("compile_tpu", ["--config=configs/debug.py"], "--topology is missing"),
    ("plan", [CONFIG], "--chips is missing"),
    ("plan", [CONFIG, "--chips=v5e"], "--chips=v5e"),
    ("plan", [CONFIG, "--chips=v5e-15"], "mesh data=1, fsdp=16"),
    ("plan", [CONFIG, "--chips=v5e-16", "--config.student.path=GPT-5"], "Qwen3-8B"),
    ("plan", [CONFIG, "--chips=v5e-16", "--config.prompts=3"], "a multiple of the 16"),
    ("plan", [CONFIG, "--chips=v5e-16", "--report=none.json"], "--report=none.json"),
    (
        "plan",
        [CONFIG, "--chips=v5e-48", "--config.mesh.tensor=3"],
        "heads is allowed",
    ),
]
# All in one process of their own: in this one other commands have flags of these names.
REFUSING = """
import contextlib, io, json, sys
from absl import flags
from experiments import compile_tpu, plan
from experiments.scale import chips, job
from opd.run.settings import command
compile_tpu.devices = lambda name: job.nowhere(chips.topology(name)[1])
said = []
for module, arguments in json.load(sys.stdin):
    flags.FLAGS.unparse_flags()
    for name in ("config", "topology", "programs", "json", "chips", "report"):
        flags.FLAGS[name].unparse()
    prepare = {"compile_tpu": compile_tpu, "plan": plan}[module].prepare
    with contextlib.redirect_stderr(io.StringIO()) as error:
        try:
            command.run(lambda: prepare([module, *arguments]))
        except SystemExit as left:
            said.append((left.code, error.getvalue()))
json.dump(said, sys.stdout)
"""


def test_a_mistake_is_one_line_and_code_2():
    asked = json.dumps([(module, arguments) for module, arguments, _ in MISTAKES])
    done = subprocess.run(
        [sys.executable, "-c", REFUSING], input=asked, capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    answers = json.loads(done.stdout.splitlines()[-1])
    for (_, arguments, says), (code, error) in zip(MISTAKES, answers, strict=True):
        assert code == 2 and says in error and error.count("\n") == 1, (arguments, error)


def test_without_the_compiler_it_says_what_to_install():
    hidden = "import importlib.metadata as m, runpy, sys; sys.argv[1:] = sys.argv[1:]\n"
    hidden += "real = m.version\n"
    hidden += "def version(name):\n    if name == 'libtpu':\n        raise m.PackageNotFoundError\n"
    hidden += "    return real(name)\nm.version = version\n"
    hidden += "runpy.run_module('experiments.compile_tpu', run_name='__main__')"
    found = subprocess.run(
        [sys.executable, "-c", hidden, CONFIG], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    assert "pip install -e '.[tpu]'" in found.stderr


def test_a_plan_is_a_prediction_and_takes_a_report(tmp_path):
    plain = called("plan", CONFIG, "--chips=h200x16")
    assert plain.returncode == 0 and plain.stdout.startswith("PREDICTION"), plain.stderr
    assert "left out" in plain.stdout and "tokens a second" in plain.stdout
    report = {
        "topology": "v5e:4x4",
        "chips": 16,
        "mesh": {"data": 1, "fsdp": 16, "tensor": 1},
        "programs": {
            "teacher": {"hbm_used": 2**33, "collectives": {"all-gather": {"bytes": 10**12}}}
        },
    }
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report))
    told = called("plan", CONFIG, "--chips=v5e-16", f"--report={file}")
    assert "by links" in told.stdout and "8 of 15.75 GiB a chip, compiled" in told.stdout
    other = called("plan", CONFIG, "--chips=v6e-16", f"--report={file}")
    assert other.returncode == 2 and "is of" in other.stderr


def test_smaller_keys_are_those_that_the_program_has(monkeypatch):
    """The config of four microbatches of 64 rows, on 16 devices; a teacher of 64 rows at once."""
    found = job.of(configs.build(read(ROOT / SMALL)["get_config"]().to_dict()), job.nowhere(16))
    names = {name: list(knobs.smaller(found, name)) for name in ("rollout", "teacher", "update")}
    assert names == {
        "rollout": ["student.gather = False"],
        "teacher": ["teacher.rows = 16"],
        "update": ["optimizer.microbatches = 8"],
    }
    plain = dataclasses.replace(found.config.teacher, attention="plain")
    changed = dataclasses.replace(found, config=dataclasses.replace(found.config, teacher=plain))
    assert "teacher.attention = auto" in knobs.smaller(changed, "teacher")
    asked = []

    def measured(job, chip, name):
        asked.append(job.config.optimizer.microbatches)
        return {"fits": True, "hbm_used": 3 * 2**30}

    monkeypatch.setattr(measure, "measured", measured)
    report = {"tried": knobs.tried(found, chips.CHIPS["v5e"], "update")}
    assert asked == [8]
    said = "  with config.optimizer.microbatches = 8: 3.00 GiB, fits"
    assert measure.attempts(report) == said
