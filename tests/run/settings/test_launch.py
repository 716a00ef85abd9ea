"""The command line: mistakes are said on three lines at most, with exit code 2, at once.

The cases run in forks of one process that has imported the command: real processes, each of which
starts where `python -m experiments.compare` would be after its imports.
"""

import dataclasses
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from opd.data import pipeline
from opd.method import table
from opd.run.comparing import compare
from opd.run.settings import command as commands
from opd.run.settings import config as configs

ROOT = Path(__file__).parents[3]
DEBUG = "--config=configs/debug.py"

FORKS = """
import json, os, sys, time
import jax
from experiments import compare
from opd.run.comparing import compare as _
from opd.run.settings import command, launch

compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None
)
folder = sys.argv[1]
for number, arguments in enumerate(json.load(sys.stdin)):
    began = time.monotonic()
    child = os.fork()
    if not child:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{folder}/{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        check = arguments[:1] == ["check"]
        sys.argv = ["compare", *arguments[check:]]
        code = 1
        try:
            command.run(lambda: (compare.prepare(), None)[1] if check else compare.prepare())
        except SystemExit as left:
            code = left.code
        except BaseException:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush(), sys.stderr.flush()
        open(f"{folder}/{number}.compiled", "w").write(str(len(compiled)))
        os._exit(code)
    _, status = os.waitpid(child, 0)
    print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - began]), flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Left:
    """What a command left behind."""

    code: int
    out: str
    err: str
    compiled: int
    seconds: float


def environment() -> dict[str, str]:
    """One device, as on a laptop, and no terminal colours."""
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def run_all(cases: list[list[str]], folder: Path) -> list[Left]:
    """Each command line in a fork of its own; where it begins with `check`, nothing is run."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(folder)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=environment(),
        check=True,
    )
    found = []
    for number, line in enumerate(done.stdout.splitlines()):
        code, seconds = json.loads(line)
        read = {n: (folder / f"{number}.{n}").read_text() for n in ("out", "err", "compiled")}
        found.append(Left(code, read["out"], read["err"], int(read["compiled"]), seconds))
    assert len(found) == len(cases), done.stderr
    return found


# What is wrong -> (the arguments after --workdir, what the message says). {x} is a file below.
MISTAKES = {
    "unknown key": (
        [DEBUG, "--config.optimizer.warmupx=3"],
        "config.optimizer.warmupx: no such key",
    ),
    "unknown part": ([DEBUG, "--config.tran.updates=3"], "config.tran: no such key; allowed are"),
    "key below a value": ([DEBUG, "--config.seed.x=3"], "config.seed has no keys"),
    "a part as a value": ([DEBUG, "--config.optimizer=3"], "--config.optimizer=3"),
    "wrong type": ([DEBUG, "--config.updates=many"], "--config.updates=many"),
    "wrong boolean": ([DEBUG, "--config.data.reverse=maybe"], "--config.data.reverse=maybe"),
    "out of range": ([DEBUG, "--config.updates=0"], "config.updates = 0"),
    "not finite": ([DEBUG, "--config.optimizer.clip=nan"], "config.optimizer.clip = nan"),
    "rates, no number": ([DEBUG, "--config.compare.learning_rates=1e-3;fast"], "allowed is float"),
    "rates, zero": ([DEBUG, "--config.compare.learning_rates=1e-3;0"], "allowed is more than 0"),
    "unknown row": ([DEBUG, "--config.probe.rows=opd;opdx"], "unknown method 'opdx'"),
    "unknown arm": ([DEBUG, "--config.compare.arms=('opd', 'opdx')"], "unknown method 'opdx'"),
    "arms by comma": ([DEBUG, "--config.compare.arms=opd,grpo"], "--config.compare.arms='A;B'"),
    "no arms": ([DEBUG, "--config.compare.arms="], "config.compare.arms = (): allowed is one"),
    "no rows": ([DEBUG, "--config.probe.rows=()"], "config.probe.rows = (): allowed is one"),
    "an arm twice": ([DEBUG, "--config.compare.arms=opd;opd"], "opd is given twice"),
    "top-k > V": ([DEBUG, "--config.probe.rows=opd_topk@k=99"], "the vocabulary has 15 tokens"),
    "top-k > V, arm": ([DEBUG, "--config.compare.arms=opd_topk@k=99"], "the vocabulary has 15"),
    "gamma > 1": (
        [DEBUG, "--config.probe.rows=opd@gamma=1.5"],
        "gamma=1.5; it is a number in [0, 1]",
    ),
    "gamma < 0": (
        [DEBUG, "--config.compare.arms=opd@gamma=-1"],
        "gamma=-1; it is a number in [0, 1]",
    ),
    "gamma is NaN": (
        [DEBUG, "--config.probe.rows=opd@gamma=nan"],
        "gamma=nan; it is a number in [0, 1]",
    ),
    "k1 as a loss": ([DEBUG, "--config.compare.arms=k1_loss"], "k1 as a loss has zero expected"),
    "a KL as advantage": ([DEBUG, "--config.compare.arms=kl_advantage"], "is a state baseline"),
    "no data for a row": ([DEBUG, "--config.probe.rows=sft"], "sft needs demonstrations"),
    "width and heads": ([DEBUG, "--config.student.model.heads=3"], "width 16 is not a multiple"),
    "a mesh": ([DEBUG, "--config.mesh.data=3"], "mesh data=3"),
    "split": ([DEBUG, "--config.evaluate.split=dev"], "config.evaluate.split = 'dev': allowed are"),
    "no config": ([], "--config is missing"),
    "config without a value": (["--config"], "--config"),
    "config not there": (["--config=configs/nope.py"], "--config=configs/nope.py: no such file"),
    "config not there, but a key of it": (
        ["--config=configs/nope.py", "--config.updates=3"],
        "configs/nope.py: no such file",
    ),
    "config with a syntax error": (["--config={syntax}"], "syntax.py: SyntaxError"),
    "config that raises": (["--config={raises}"], "raises.py: KeyError: 'left out'"),
    "a part that is a number": (
        ["--config={partless}"],
        "config.optimizer = 3: allowed is a mapping of learning_rate",
    ),
    "last seed": ([DEBUG, "--config.seed=2147483648"], "allowed is up to 2147483647"),
    "config that is refused": (["--config={refused}"], "config.seed = -1: allowed is 0 or more"),
    "config without get_config": (["--config={empty}"], "get_config"),
    "gin, no such key": ([DEBUG, "--gin_bindings=config.sed = 3"], "config.sed: no such key"),
    "gin, no such file": ([DEBUG, "--gin_file={nowhere}"], "cannot be read (No such file"),
    "gin, wrong type": (["--gin_bindings=config.updates = 1.5"], "config.updates = 1.5: allowed"),
    "gin below a part that is a number": (
        ["--config={partless}", "--gin_bindings=optimizer.warmup = 3"],
        "config.optimizer = 3: allowed is a mapping of learning_rate",
    ),
    "unknown flag": ([DEBUG, "--worksdir=x"], "worksdir"),
    "positional argument": ([DEBUG, "runs/debug"], "unknown argument 'runs/debug'"),
    "no axis of the mesh": (
        [DEBUG, "--config.student.sharding.mlp=tensor;expert"],
        "config.student.sharding.mlp = ('tensor', 'expert'): allowed are data, fsdp, tensor",
    ),
    "an axis of the mesh twice": (
        [DEBUG, "--config.teacher.sharding.mlp=fsdp;fsdp"],
        "config.teacher.sharding.mlp = ('fsdp', 'fsdp'): each axis of the mesh is allowed once",
    ),
    "one of how many": ([DEBUG, "--process=1"], "--process without --coordinator: allowed are"),
    "a process too many": (
        [DEBUG, "--coordinator=127.0.0.1:1", "--processes=2", "--process=2"],
        "--process=2: allowed is 0 to 1 (--processes)",
    ),
    "no cluster": ([DEBUG, "--distributed"], "--distributed: JAX finds no cluster here"),
    "data not there": (
        [DEBUG, "--config.data.prompts={nowhere}", "--config.data.tokenizer=byte"],
        "nowhere.jsonl: cannot be read",
    ),
    "gsm8k not there": (
        [DEBUG, "--config.data.task=gsm8k", "--config.data.path={nowhere}"]
        + ["--config.data.tokenizer=byte"],
        "train.jsonl: cannot be read",
    ),
    "malformed JSONL": (
        [DEBUG, "--config.data.prompts={malformed}", "--config.data.tokenizer=byte"],
        "malformed.jsonl:2: not JSON",
    ),
    "an answer outside the alphabet": (
        [DEBUG, "--config.data.prompts={spelled}", "--config.data.alphabet=0123456789=+*"]
        + ["--config.data.max_completion=6"],
        "answer to '3+3=': the alphabet has no 's' (in 'six')",
    ),
    "nothing to evaluate on": (
        [DEBUG, "--config.data.test=1"],
        "config.evaluate.split = 'test': has 1 prompt, allowed are 2 or more",
    ),
    "prompts, and no file": (["--config=configs/prompts.py"], "needs data.prompts = FILE.jsonl"),
    "prompts too long": ([DEBUG, "--config.data.max_prompt=3"], "data.max_prompt = 3: prompt 0"),
    "nothing to fit to": (
        [DEBUG, "--config.data.prompts={unanswered}", "--config.data.tokenizer=byte"]
        + ["--config.data.max_completion=4"],
        "no teacher can be fitted to them: give config.teacher.path",
    ),
    "no verifier": (
        [DEBUG, "--config.data.prompts={unanswered}", "--config.data.alphabet=0123456789=+*"]
        + ["--config.data.max_completion=3"]
        + ["--config.teacher.path={player}", "--config.student.path={player}"],
        "needs a reward: a verifier for the task, and this run has none",
    ),
    "no player there": (
        [DEBUG, "--config.teacher.path={nowhere}"],
        "nowhere.jsonl: no such folder",
    ),
    "half a player.json": ([DEBUG, "--config.teacher.path={half}"], "no player there"),
    "a player cut off": ([DEBUG, "--config.teacher.path={cut}"], "params/d is missing or cut off"),
    "a player of other types": (
        [DEBUG, "--config.teacher.path={listed}"],
        "no player there (player.json: files is ['params/d'], should be a dict)",
    ),
    "a player of another decoder": (
        [DEBUG, "--config.student.path={wider}"],
        "no player there (player.json, decoder: ",
    ),
    "float64": (
        [DEBUG, "--config.student.model.param_dtype=float64"],
        "config.student.model.param_dtype = 'float64': allowed with JAX_ENABLE_X64=1",
    ),
    "from nowhere": (
        [DEBUG, "--config.student.from={nowhere}@3"],
        "no such workdir; allowed is WORKDIR, WORKDIR@STEP or WORKDIR@best",
    ),
    "from no checkpoint": (
        [DEBUG, "--config.student.from={player}"],
        "player/checkpoints: no finished checkpoint there",
    ),
    "path and from": (
        [DEBUG, "--config.student.from={player}", "--config.student.path={player}"],
        "config.student.path and config.student.from are both given: allowed is one of them",
    ),
    "another tokenizer": (
        [DEBUG, "--config.teacher.path={player}", "--config.data.alphabet=9876543210=+*"],
        "another tokenizer than the data's: id 2 is",
    ),
    "prompts longer than the model": (
        [DEBUG, "--config.teacher.path={short}"],
        "the model reads 5 tokens, prompt and completion have up to",
    ),
}
# The same, where --workdir itself is what is wrong.
WORKDIRS = {
    "missing": ([DEBUG], "--workdir is missing"),
    "empty": ([DEBUG, "--workdir="], "--workdir is missing"),
    "a file": ([DEBUG, "--workdir={syntax}"], "it is a file"),
    "too long a name": ([DEBUG, "--workdir={folder}/" + 300 * "x"], "(File name too long)"),
    "below a file": ([DEBUG, "--workdir={syntax}/x"], "it can't be reached (Not a directory)"),
    "another config's": (
        [DEBUG, "--workdir={done}", "--config.updates=7", "--config.seed=1"],
        "config.seed was 0, now 1; config.updates was 3, now 7",
    ),
}
TOPK = "opd_topk@k=4,tail=drop"
# How lists are written -> train.arms and train.learning_rates as understood.
LISTS = {
    "a bare name": (["--config.compare.arms=opd"], ["opd"], None),
    "a name with commas": ([f"--config.compare.arms={TOPK}"], [TOPK], None),
    "semicolons": ([f"--config.compare.arms=opd;{TOPK}"], ["opd", TOPK], None),
    "a tuple": ([f"--config.compare.arms=('opd', '{TOPK}')"], ["opd", TOPK], None),
    "a list": ([f'--config.compare.arms=["opd","{TOPK}"]'], ["opd", TOPK], None),
    "repeated": (
        ["--config.compare.arms=opd", f"--config.compare.arms={TOPK}"],
        ["opd", TOPK],
        None,
    ),
    "two words": (["--config.compare.arms", f"opd;{TOPK}"], ["opd", TOPK], None),
    "a number": (["--config.compare.learning_rates=1"], None, [1.0]),
    "numbers": (["--config.compare.learning_rates=1e-3;3e-4"], None, [1e-3, 3e-4]),
    "a tuple of numbers": (["--config.compare.learning_rates=(1e-3, 1)"], None, [1e-3, 1.0]),
}
# The README's own command for a file of prompts, and what goes on from there.
README = (ROOT / "README.md").read_text()
PROMPTS = re.search(r"`(--config=configs/prompts.py [^`]*)`", README)[1].split()
PROMPTS = [part.replace("FILE.jsonl", "{answered}") for part in PROMPTS]
OTHERS = {
    "help": ["--help"],
    "methods": ["--list_methods"],
    "axes": ["--list_axes"],
    "config": [DEBUG, "--print_config"],
    "from": [DEBUG, "--config.student.from=a@3", "--config.teacher.from", "b", "--print_config"],
    "gin": [
        "--gin_bindings=config.seed = 2\nconfig.updates = 4",
        "--gin_file=configs/gin/debug.gin",
        "--gin_bindings=student.from = 'a'\ncompare.arms = ('opd', 'rloo')",
        "--config.updates=5",
        "--print_config",
    ],
    "flags": [
        DEBUG,
        "--config.seed=2",
        "--config.updates=5",
        "--config.student.from=a",
        "--config.compare.arms=opd;rloo",
        "--print_config",
    ],
    "gin over a config": [DEBUG, "--gin_bindings", "config.prompts = 2", "--print_config"],
    "prompts": [*PROMPTS, "--print_config"],
    "prompts, checked": ["check", *PROMPTS, "--workdir={folder}/made/x"],
}


def described(**changes) -> str:
    """A player.json for the debug config's data."""
    get_config = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]
    config = configs.build(get_config().to_dict())
    task = pipeline.load(config.data)
    decoder = config.student.model.decoder(task.tokenizer.vocab, 32)
    found = {
        "decoder": dataclasses.asdict(decoder) | changes,
        "tokenizer": task.tokenizer.fingerprint(),
        "tokens": list(map(repr, task.tokenizer.table())),
        "identity": {},
        "files": {"params/d": 3},
    }
    return json.dumps(found)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """What the command lines name."""
    folder = tmp_path_factory.mktemp("files")
    texts = {
        "syntax": "def get_config(:\n",
        "raises": "def get_config():\n    raise KeyError('left out')\n",
        "refused": "from opd.run.settings.config import Config, config_dict\n"
        "def get_config():\n    return config_dict(Config(seed=-1))\n",
        "empty": "x = 1\n",
        "partless": "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'optimizer': 3})\n",
    }
    found = {name: folder / f"{name}.py" for name in texts}
    for name, text in texts.items():
        found[name].write_text(text)
    found["nowhere"] = folder / "nowhere.jsonl"
    found["malformed"] = folder / "malformed.jsonl"
    found["malformed"].write_text('{"prompt": "1+1=", "answer": "2"}\n{"prompt": "2+2="\n')
    found["unanswered"] = folder / "unanswered.jsonl"
    lines = [json.dumps({"prompt": f"{i}+{i}="}) for i in range(20)]
    found["unanswered"].write_text("\n".join(lines) + "\n")
    found["answered"] = folder / "answered.jsonl"
    lines = [json.dumps({"prompt": f"{i}+{i}=", "answer": str(2 * i)}) for i in range(160)]
    found["answered"].write_text("\n".join(lines) + "\n")
    found["spelled"] = folder / "spelled.jsonl"
    lines[3] = json.dumps({"prompt": "3+3=", "answer": "six"})
    found["spelled"].write_text("\n".join(lines) + "\n")
    players = {
        "player": ({}, "abc"),
        "cut": ({}, "ab"),
        "short": ({"max_length": 5}, "abc"),
        "wider": ({"breadth": 5}, "abc"),
        "listed": ({}, "abc"),
    }
    for name, (changes, params) in players.items():
        found[name] = folder / name
        (folder / name / "params").mkdir(parents=True)
        (folder / name / "params" / "d").write_text(params)
        (folder / name / "player.json").write_text(described(**changes))
    listed = json.loads((found["listed"] / "player.json").read_text()) | {"files": ["params/d"]}
    (found["listed"] / "player.json").write_text(json.dumps(listed))
    found["half"] = folder / "half"
    found["half"].mkdir()
    (found["half"] / "player.json").write_text('{"decoder": {}}')
    found["done"] = folder / "done"
    found["done"].mkdir()
    return found


@pytest.fixture(scope="module")
def left(files, tmp_path_factory) -> dict[tuple[str, str], Left]:
    """Every command line's outcome, all from one start of Python."""
    folder = tmp_path_factory.mktemp("left")
    (printed,) = run_all([OTHERS["config"]], tmp_path_factory.mktemp("printed"))
    done = {"schema": compare.SCHEMA, "config": json.loads(printed.out)}
    (files["done"] / "results.json").write_text(json.dumps(done))
    names = {name: str(path) for name, path in files.items()}
    names["folder"] = str(files["nowhere"].parent)
    cases = {("others", name): arguments for name, arguments in OTHERS.items()}
    for name, (arguments, _) in MISTAKES.items():
        cases["mistake", name] = [f"--workdir={files['nowhere'].parent}/w/x", *arguments]
    cases |= {("workdir", name): arguments for name, (arguments, _) in WORKDIRS.items()}
    cases |= {("list", n): [DEBUG, *given, "--print_config"] for n, (given, *_) in LISTS.items()}
    filled = [[part.format_map(names) for part in case] for case in cases.values()]
    return dict(zip(cases, run_all(filled, folder), strict=True))


def check_refused(found: Left, message: str):
    assert found.code == 2, (found.out, found.err)
    lines = found.err.strip().splitlines()
    assert lines[0].startswith("error: ") and len(lines) <= 3, found.err
    assert message in found.err
    assert "Traceback" not in found.err + found.out
    assert found.out == ""
    assert found.compiled == 0


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_before_anything_happens(name, left, files):
    check_refused(left["mistake", name], MISTAKES[name][1])
    assert not (files["nowhere"].parent / "w").exists()


@pytest.mark.parametrize("name", WORKDIRS)
def test_a_workdir_that_cannot_be_is_refused(name, left, files):
    check_refused(left["workdir", name], WORKDIRS[name][1])
    assert [path.name for path in files["done"].iterdir()] == ["results.json"]
    assert not {"data", "models", "cache"} & {path.name for path in ROOT.iterdir()}


def test_mistakes_are_quick(left):
    slowest = max((found.seconds, name) for name, found in left.items())
    assert slowest[0] < 30, slowest  # after the imports; nearer 0.3 on an idle machine


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_written_in_any_of_these_forms(name, left):
    _, arms, rates = LISTS[name]
    found = left["list", name]
    assert found.code == 0, found.err
    train = json.loads(found.out)["compare"]
    assert train["arms"] == (arms or ["opd", "grpo"])
    assert train["learning_rates"] == (rates or [])


def test_the_config_is_printed_as_json_defaults_and_all(left):
    found = left["others", "config"]
    assert (found.code, found.err, found.compiled) == (0, "", 0)
    printed = json.loads(found.out)
    assert printed["optimizer"]["weight_decay"] == 0.0 and printed["data"]["path"] is None


def test_a_key_that_is_a_word_of_python_s_is_given_like_any_other(left):
    found = left["others", "from"]
    assert (found.code, found.err) == (0, "")
    printed = json.loads(found.out)
    assert (printed["student"]["from"], printed["teacher"]["from"]) == ("a@3", "b")


def test_gin_files_then_bindings_then_flags_and_all_as_flags_alone(left):
    found, flags = left["others", "gin"], left["others", "flags"]
    assert (found.code, found.err) == (flags.code, flags.err) == (0, "")
    assert json.loads(found.out) == json.loads(flags.out)
    over = json.loads(left["others", "gin over a config"].out)
    assert over == json.loads(left["others", "config"].out) | {"prompts": 2}


def test_the_readme_s_command_for_prompts_is_accepted(left, files):
    found = left["others", "prompts"]
    assert (found.code, found.err, found.compiled) == (0, "", 0)
    data = json.loads(found.out)["data"]
    assert data["task"] == "jsonl" and data["prompts"] == str(files["answered"])
    found = left["others", "prompts, checked"]
    assert (found.code, found.out, found.err) == (0, "", "")
    assert (files["nowhere"].parent / "made" / "x").is_dir()


def test_the_methods_are_listed_with_goal_needs_and_paper(left):
    found = left["others", "methods"]
    assert (found.code, found.err, found.compiled) == (0, "", 0)
    first_words = [line.split()[0] for line in found.out.splitlines() if line[:1].strip()]
    assert first_words[: len(table.ROWS)] == list(table.ROWS)
    for word in ("goal:", "needs:", "paper:"):
        assert found.out.count(word) == len(table.ROWS)
    assert found.out.count("not for training:") == 2


def test_the_axes_are_listed_with_values_and_what_brings_them_in(left):
    found = left["others", "axes"]
    assert (found.code, found.err, found.compiled) == (0, "", 0)
    lines = found.out.splitlines()
    first_words = [line.split()[0] for line in lines if line[:1].strip()]
    assert [word for word in first_words if word != "Of"] == list(table.AXES)
    assert found.out.count("usual:") == len(table.AXES)
    (k,) = (at for at, line in enumerate(lines) if line.startswith("k "))
    assert lines[k + 1].strip() == (
        "a whole number of at least 1; with expectation=resampled or topk; "
        "usual: 4 for resampled, 8 for topk"
    )


def test_help_says_what_there_is(left):
    found = left["others", "help"]
    assert (found.code, found.err) == (0, "")
    assert "python -m experiments.compare --config=" in found.out


def command(*arguments: str) -> subprocess.CompletedProcess:
    """The command itself, from its imports on."""
    return subprocess.run(
        [sys.executable, "-m", "experiments.compare", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=environment(),
    )


def test_the_command_itself_leaves_with_two_and_no_workdir(tmp_path):
    found = command(DEBUG, "--config.compare.arms=opdx", f"--workdir={tmp_path}/x")
    assert found.returncode == 2
    assert found.stdout == "" and len(found.stderr.splitlines()) == 2
    assert found.stderr.startswith("error: config.compare.arms: unknown method 'opdx'")
    assert not (tmp_path / "x").exists()


def test_the_command_itself_has_help_for_all_its_flags():
    found = command("--help")
    assert found.returncode == 0 and found.stderr == ""
    for flag in ("--config:", "--workdir:", "print_config:", "list_methods:", "list_axes:"):
        assert flag in found.stdout


def test_a_mistake_of_ours_keeps_its_traceback():
    def ours():
        raise ValueError("not a user's doing")

    with pytest.raises(ValueError, match="not a user's doing"):
        commands.run(lambda: ours)


def test_an_endless_message_is_cut_in_its_middle_and_after_three_lines():
    """What was given may be anything; what is allowed stands at the end."""
    said = commands.message(ValueError("given " + "x" * 10**5 + ": allowed is y\n2\n3\n4"))
    first, *rest = said.splitlines()
    assert first.startswith("given xxx") and first.endswith("x: allowed is y") and len(first) < 1010
    assert rest == ["2", "3"]
    assert commands.message(ValueError("")) == "ValueError"


def test_a_reader_that_has_read_enough_is_no_traceback():
    """`... | head -1`: a list of 25 rows, and then more than a pipe holds."""
    listed = [sys.executable, "-m", "experiments.train", "--list_methods"]
    process = subprocess.Popen(
        listed, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 1
    process.stderr.close()


def test_a_sweep_runs_in_one_process():
    """It starts others; what a cluster runs of it are its points."""
    flags = ["--coordinator=127.0.0.1:1", "--processes=2", "--process=0"]
    command = [sys.executable, "-m", "experiments.sweep", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = "error: --coordinator: this command runs in one process; allowed is none\n"
    assert done.returncode == 2 and done.stderr == said
