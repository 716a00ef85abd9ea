"""Launchers: what they print, what reaches the hosts, and what is refused.

gcloud, xpk, sbatch and srun are stand-ins that treat a command as the real ones do: a shell on the
host, Kubernetes' dollar signs and then bash, a batch script of /bin/sh, no shell at all.
"""

import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"
FLAGS = {
    "tpu": ["--name=pod", "--zone=us-central1-a"],
    "xpk": ["--name=w", "--cluster=c", "--zone=us-east5-b", "--tpu_type=v6e-256"],
    "slurm": ["--name=job", "--nodes=2", "--gpus=8"],
}

MORE = {
    "tpu": ["--project=p", "--before=mount it && true", "--with=--internal-ip"],
    "xpk": ["--slices=2", "--image=gcr.io/p/i:1", "--with=--priority=high", "--before=echo $HOME"],
    "slurm": ["--with=--partition=gpu", "--with=--time=4:00:00"],
}


def launch(which, *arguments, scripts=SCRIPTS, **options):
    """A launcher's exit code and what it said."""
    return subprocess.run(
        [scripts / f"launch_{which}", *arguments], capture_output=True, text=True, **options
    )


# --- what is printed, and what reaches the hosts ------------------------------------------------

TOOLS = {
    # ssh hands the command to the login shell, in the home folder of the host.
    "gcloud": """
        case $4 in
          scp) cp -- "$5" "$HOST/${6#*:}" ;;
          ssh) cd -- "$HOST" && bash -c "${!##--command=}" ;;
        esac""",
    # Kubernetes makes $$ one dollar sign; the container has the folder and runs bash -c.
    "xpk": """
        for flag; do
          case $flag in
            --script-dir=*) cd -- "${flag#*=}" ;;
            --command=*) command=${flag#*=} ;;
          esac
        done
        bash -c "(${command//'$$'/'$'}) & wait \\$!" """,
    # --wrap becomes a script of sh, run where it was submitted.
    "sbatch": r"""
        printf '#!/bin/sh\n%s\n' "${!##--wrap=}" >"$HOST/batch.sh"
        sh "$HOST/batch.sh" """,
    "srun": """
        while [[ $1 == -* ]]; do shift; done
        exec "$@" """,
}
# In place of the installation: an interpreter that writes down what it was given.
PREPARE = """#!/bin/sh
mkdir -p .venv/bin
cp scripts/python .venv/bin
"""
INTERPRETER = """#!{python}
import json, os, sys
with open(os.environ["HOST"] + "/given", "w") as file:
    json.dump(sys.argv[1:], file)
"""
AWKWARD = (
    "a b", "it's", 'say "x"', "$HOME", "$(id)", "$$", "$$(HOME)", "`id`", "a\\b\\", "*", "a;b&&c|d",
    "", "{x,y}", "~", "ä", "'", "''", "!x", "#", "k=('A', 'B')", "k=A;B", "\t",
)  # fmt: skip


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A committed copy of what launchers need, and the tools' stand-ins; `given` is on the host."""
    repository, tools, host = (tmp_path / name for name in ("a clone", "tools", "host"))
    for folder in (tools, host, repository / "experiments"):
        folder.mkdir(parents=True)
    shutil.copytree(SCRIPTS, repository / "scripts")
    (repository / "scripts" / "prepare").write_text(PREPARE)
    interpreter = repository / "scripts" / "python"
    interpreter.write_text(INTERPRETER.format(python=sys.executable))
    interpreter.chmod(0o755)
    (repository / "experiments" / "train.py").write_text("")
    (repository / ".gitignore").write_text("runs/\n.venv/\n")
    for name, text in TOOLS.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\nset -e\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    monkeypatch.setenv("HOST", str(host))
    who = ["-c", "user.name=a", "-c", "user.email=b"]
    for words in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "-m", "all"]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    return repository, host


@pytest.mark.parametrize("which", FLAGS)
def test_a_dry_run_prints_the_commands(which, cluster):
    """As in launched/LAUNCHER.txt, where ROOT is the repository."""
    repository, _ = cluster
    program = ["--", "experiments.train", "--config=configs/debug.py", "--config.a=b $c"]
    words = [*FLAGS[which], *MORE[which], "--dry_run", *program]
    done = launch(which, *words, scripts=repository / "scripts")
    assert done.returncode == 0 and not done.stderr, done.stderr
    golden = (ROOT / "tests" / "launched" / f"{which}.txt").read_text()
    assert done.stdout == golden.replace("ROOT", shlex.quote(str(repository)))
    assert not (repository / "runs").exists()


@pytest.mark.parametrize("which", FLAGS)
def test_arguments_reach_the_program_as_they_were_given(which, cluster):
    repository, host = cluster
    words = ["--", "experiments.train", *AWKWARD]
    done = launch(which, *FLAGS[which], *words, scripts=repository / "scripts")
    assert done.returncode == 0 and not done.stderr, done.stderr
    expected = ["-m", "experiments.train", *AWKWARD, "--distributed"]
    assert json.loads((host / "given").read_text()) == expected
    (host / "given").unlink()
    printed = launch(which, *FLAGS[which], "--dry_run", *words, scripts=repository / "scripts")
    assert not (host / "given").exists()
    subprocess.run(["bash", "-e", "-c", printed.stdout], cwd="/", check=True)
    assert json.loads((host / "given").read_text()) == expected


def test_hosts_get_what_is_committed_and_keep_what_they_had_made(cluster):
    repository, host = cluster
    (repository / "experiments" / "train.py").write_text("# not yet")
    for folder in ("runs", "gone", ".venv"):
        (host / "opd" / folder).mkdir(parents=True)
        (host / "opd" / folder / "old").write_text("")
    before = 'echo first >>"$HOST/log"; echo "second $((1 + 1))" >>"$HOST/log"'
    words = [*FLAGS["tpu"], f"--before={before}", "--", "experiments.train"]
    done = launch("tpu", *words, scripts=repository / "scripts")
    assert done.returncode == 0
    assert done.stderr == "only what is committed is sent, and there are changes that aren't\n"
    assert (host / "log").read_text() == "first\nsecond 2\n"
    assert (host / "opd" / "experiments" / "train.py").read_text() == ""
    left = {path.name for path in (host / "opd").iterdir()}
    assert left == {"runs", ".venv", "experiments", "scripts", ".gitignore"}
    assert (host / "opd" / "runs" / "old").exists() and (host / "opd" / ".venv" / "old").exists()


@pytest.mark.parametrize("which", FLAGS)
def test_a_step_that_fails_is_the_last(which, cluster):
    """The host's failure is the launcher's, and what follows a failed step isn't run."""
    repository, host = cluster
    (repository / "scripts" / "prepare").write_text("#!/bin/sh\nexit 7\n")
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=b", "commit", "-qam", "x"],
        cwd=repository, check=True,
    )  # fmt: skip
    words = [*FLAGS[which], "--", "experiments.train"]
    done = launch(which, *words, scripts=repository / "scripts")
    assert done.returncode == 7 and not (host / "given").exists()


# --- what is refused ----------------------------------------------------------------------------

PROGRAM = ["--", "experiments.train"]
REFUSED = [
    *(
        (which, [flag for flag in flags if flag != left_out] + PROGRAM, f"{named} is missing")
        for which, flags in FLAGS.items()
        for left_out, named in ((flag, flag.partition("=")[0]) for flag in flags)
    ),
    (
        "tpu",
        ["--name=My Pod", "--zone=us-east5-b", *PROGRAM],
        "--name=My Pod: it is",
    ),
    ("tpu", ["--name=pod", "--zone=here", *PROGRAM], "--zone=here: it is a zone"),
    ("xpk", [*FLAGS["xpk"], "--name=" + 41 * "a", *PROGRAM], "at most 40"),
    ("xpk", [*FLAGS["xpk"], "--slices=0", *PROGRAM], "--slices=0: it is a number of slices"),
    ("xpk", [*FLAGS["xpk"], "--tpu_type=big", *PROGRAM], "--tpu_type=big: it is a type"),
    ("slurm", [*FLAGS["slurm"], "--gpus=many", *PROGRAM], "--gpus=many: it is the number of GPUs"),
    ("slurm", [*FLAGS["slurm"], "--nodes=-1", *PROGRAM], "--nodes=-1: it is a number of nodes"),
    *((which, [*flags, "--"], "nothing to run") for which, flags in FLAGS.items()),
    *((which, flags, "nothing to run") for which, flags in FLAGS.items()),
    ("slurm", [*FLAGS["slurm"], "--", "train"], "train: no such program"),
    ("slurm", [*FLAGS["slurm"], "--", "experiments.trian"], "experiments.trian: no such program"),
    ("slurm", ["--nam=x", *PROGRAM], "--nam is unknown; there are --name --nodes --gpus --with"),
    ("slurm", ["--name", "x", *PROGRAM], "it is given as --name=VALUE"),
    ("slurm", ["--name=", *PROGRAM], "it is given as --name=VALUE"),
    ("slurm", ["x", *PROGRAM], "x: what is run comes after --"),
    ("slurm", ["--with=partition", *PROGRAM], "--with=partition: it is --with=FLAG"),
    ("slurm", ["--run=x", *PROGRAM], "--run is unknown"),
    ("tpu", [*FLAGS["tpu"], *PROGRAM, "a\nb"], "line break"),
]


@pytest.mark.parametrize(("which", "arguments", "said"), REFUSED)
def test_a_mistake_is_one_line_and_nothing_has_run(which, arguments, said, cluster):
    repository, _ = cluster
    done = launch(which, *arguments, scripts=repository / "scripts")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert said in done.stderr and not (repository / "runs").exists()


@pytest.mark.parametrize("words", [(), ("cuda",), ("gpu", "tpu")])
def test_hosts_are_prepared_for_what_there_is(words):
    done = subprocess.run([SCRIPTS / "prepare", *words], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: scripts/prepare takes one word")


@pytest.mark.parametrize("which", FLAGS)
def test_help_names_every_flag(which):
    done = launch(which, "--help")
    assert done.returncode == 0 and done.stdout.rstrip() and "set -" not in done.stdout
    unknown = launch(which, "--x=y").stderr
    assert {word for word in unknown.split() if word.startswith("--")} - {"--x"} <= {
        word.partition("=")[0] for word in done.stdout.split()
    }


# --- sweeps -------------------------------------------------------------------------------------

# Command lines of one process: what is imported takes seconds.
SWEEPS = """
import json, sys
from absl.testing import flagsaver
from experiments import sweep
from opd.run.settings import command
for arguments in json.load(sys.stdin):
    sys.argv = ["sweep", *arguments]
    with flagsaver.flagsaver():
        try:
            command.run(sweep.prepare)
        except SystemExit as left:
            print("left with", left.code)
"""
SWEEP = ("--sweep=configs/sweeps/gamma.py", "--workdir=/shared/my runs")
LAUNCHER = "--launcher=slurm --name=g --nodes=2 --gpus=8"


def test_each_point_of_a_sweep_has_a_launcher_s_command(cluster):
    """What is printed is a program of bash: a line a point. By itself a sweep launches nothing."""
    repository, host = cluster
    shutil.copytree(ROOT / "configs", repository / "configs")
    asked = [
        [*SWEEP, LAUNCHER],
        [*SWEEP, "--read", f"--workdir={host}"],
        [*SWEEP, LAUNCHER.replace("slurm", "pbs"), "--dry_run"],
        [*SWEEP, LAUNCHER, "--dry_run"],
    ]
    found = subprocess.run(
        [sys.executable, "-c", SWEEPS], input=json.dumps(asked), capture_output=True, text=True,
        cwd=repository, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    alone, unread, unknown = found.stderr.splitlines()
    assert alone == "error: --launcher starts nothing: with --dry_run it prints what would"
    assert unread == f"error: --workdir={host}: no sweep has run there"
    assert unknown.startswith("error: --launcher=pbs ")
    *said, left = found.stdout.splitlines()
    refused, lines = said[:3], said[3:]
    assert refused == ["left with 2"] * 3 and left == "left with 0"
    assert not (repository / "runs").exists()
    points = runpy.run_path(str(ROOT / "configs" / "sweeps" / "gamma.py"))["get_sweep"]()
    for line, point in zip(lines, points, strict=True):
        words = shlex.split(line)
        assert (
            words[0] == "scripts/launch_slurm" and "--config.models=/shared/my runs/models" in words
        )
        assert {f"--config.{key}={value}" for key, value in point.items()} < set(words)
    subprocess.run(["bash", "-e", "-c", lines[-1]], cwd=repository, check=True)
    given = json.loads((host / "given").read_text())
    assert given == ["-m", *shlex.split(lines[-1].partition(" -- ")[2]), "--distributed"]


# --- shellcheck ---------------------------------------------------------------------------------


def test_scripts_are_as_shellcheck_wants_them():
    """The extra `dev` brings shellcheck."""
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck isn't installed (the extra dev has it)")
    files = [file for file in SCRIPTS.iterdir() if file.suffix in ("", ".sh")]
    assert len(files) >= 9
    done = subprocess.run(
        [shellcheck, *files, ROOT / ".ci" / "run"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout
