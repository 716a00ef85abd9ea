"""Trainings on one mesh after the other, in one process: python -m tests.multiprocess.meshes DIR.

Standard input has them as JSON: {NAME: {KEY: VALUE}} of configs/debug.py. Each leaves DIR/NAME,
with digests of all its rollouts in rollouts.jsonl.
"""

import functools
import json
import sys
from pathlib import Path

from configs import debug
from opd import disk
from opd.engine import programs
from opd.run.settings import config as configs
from opd.run.training import train


def main(folder: Path, trainings: dict[str, dict]) -> None:
    """Runs them in their order."""
    drawn, rollout = [], programs.rollout

    @functools.wraps(rollout)
    def recorded(*args, **kwargs):
        made = rollout(*args, **kwargs)
        drawn.append({"mesh": str(dict(args[0].shape)), "tokens": made.digests()[0]})
        return made

    programs.rollout = recorded
    for name, keys in trainings.items():
        config = debug.get_config()
        config.update_from_flattened_dict(keys)
        workdir = folder / name
        assert train.train(configs.build(config.to_dict()), workdir)["step"] == 3
        with disk.JsonlWriter(workdir / "rollouts.jsonl") as file:
            for number, record in enumerate(drawn):
                assert record.pop("mesh") == str(
                    {axis: keys.get(f"mesh.{axis}", 1) for axis in ("data", "fsdp", "tensor")}
                )
                file.write({"number": number} | record)
        del drawn[:]


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.load(sys.stdin))
