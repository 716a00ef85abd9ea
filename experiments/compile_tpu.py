"""An update's programs, compiled for TPUs that needn't be there: do they fit, and what limits them?

python -m experiments.compile_tpu --config=configs/scale/NAME.py [--topology=v5e:16x16]
    [--json=FILE] [--programs='teacher;update'] [--plain] [--try]
    [--config.KEY=VALUE ...]

The compiler is libtpu's own (`pip install -e '.[tpu]'`); no TPU is used. Seconds are a prediction,
of the peaks in `experiments/scale/chips.py`. Leaves with code 1 where a program doesn't fit, or
holds what it must not: logits of all positions, scores of all pairs of tokens.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from opd.run.settings import command

if TYPE_CHECKING:
    from experiments.scale.job import Job

_TOPOLOGY = flags.DEFINE_string("topology", None, "chips, v5e:16x16; the config's own TOPOLOGY")
_PROGRAMS = flags.DEFINE_string("programs", None, "some of rollout;teacher;update; all")
_PLAIN = flags.DEFINE_bool("plain", False, "don't say how arrays inside lie: what that saves")
_TRY = flags.DEFINE_bool("try", False, "of what doesn't fit, compile again with smaller keys")
_JSON = flags.DEFINE_string("json", None, "a file for the result")

# No TPU is to be looked for, in the machine's metadata or locked against other processes.
ALONE = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def prepare(argv: list[str] | None = None) -> Callable[[], None]:
    """Parses and checks; hands back what is to be compiled.

    Raises:
        ValueError: a user's mistake, or no libtpu; nothing has been compiled.
    """
    argv = sys.argv if argv is None else argv
    command.helped(argv, __doc__)
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)
    from experiments.scale import chips, job
    from opd.run.settings import launch

    config = launch.parse(argv)
    if config is None:
        raise ValueError("--config is missing; --config=configs/scale/qwen3_8b_to_0_6b.py, say")
    file = None if _JSON.value is None else Path(_JSON.value)
    if file is not None and not file.parent.is_dir():
        raise ValueError(f"--json={file}: no such folder {file.parent}")
    name = _TOPOLOGY.value or _own()
    kind, _ = chips.topology(name)
    found = job.of(config, devices(name))
    own = job.programs_of(found)
    asked = own if _PROGRAMS.value is None else tuple(_PROGRAMS.value.split(";"))
    for program in asked:
        if program not in own:
            raise ValueError(f"--programs: {program!r}: {', '.join(own)} are allowed")
    return functools.partial(run, found, name, kind, asked, _given(argv), file)


def _own() -> str:
    """The topology that the config's file says it was made for."""
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    named = runpy.run_path(file).get("TOPOLOGY")
    if named is None:
        raise ValueError("--topology is missing, and the config has no TOPOLOGY: v5e:4x4, say")
    return named


def _given(argv: list[str]) -> list[str]:
    """The command's arguments, without where its result goes."""
    return [one for one in argv[1:] if not one.lstrip("-").startswith("json")]


def devices(topology: str) -> list[Any]:
    """The devices of a topology, as the compiler knows them.

    Raises:
        ValueError: no libtpu, or one that doesn't know the topology.
    """
    try:
        importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            "libtpu isn't installed, and it is the compiler: pip install -e '.[tpu]'"
        ) from None
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(topology, "tpu").devices)
    except Exception as error:  # what libtpu raises, it likes
        reason = str(error).strip().splitlines()[0][:200]
        raise ValueError(f"--topology={topology}: libtpu refuses it ({reason})") from None


def run(
    job: Job, topology: str, kind: str, asked: tuple[str, ...], given: list[str], file: Path | None
) -> None:
    """Compiles, prints, writes; leaves with code 1 where something is wrong with a program."""
    import jax

    from experiments.scale import knobs, measure
    from experiments.scale.chips import CHIPS
    from opd import disk
    from opd.engine import sharding

    if _PLAIN.value:
        sharding.Layout.constrain = lambda self, x, names: x

    def report() -> dict[str, Any]:
        return {
            "command": given,
            "topology": topology,
            "chips": job.mesh.size,
            "mesh": dict(job.mesh.shape),
            "jax": jax.__version__,
            "libtpu": importlib.metadata.version("libtpu"),
            **measure.whole(found),
            "programs": found,
        }

    found: dict[str, Any] = {}
    for name in asked:
        print(f"compiling {name} for {topology}", file=sys.stderr, flush=True)
        found[name] = measure.measured(job, CHIPS[kind], name)
        print(measure.line(name, found[name]), flush=True)
        if _TRY.value and not found[name]["fits"]:
            found[name]["tried"] = knobs.tried(job, CHIPS[kind], name)
            print(measure.attempts(found[name]), flush=True)
        if file is not None:  # a program takes minutes: what there is isn't lost
            disk.dump_json(report(), file)
    print(measure.summary(report()), flush=True)
    sys.exit(0 if report()["fits"] and not measure.wrong(found) else 1)


if __name__ == "__main__":
    command.main(prepare)
