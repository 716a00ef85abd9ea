"""The command line: absl flags and ml_collections configs, with a user's mistakes on one line.

absl and ml_collections leave with code 1 and a traceback on a bad flag, an unknown key or a
missing file. Here every mistake is a message on standard error and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import config_flags

from opd.method import table
from opd.run import config as configs
from opd.run.config import Config

_CONFIG = config_flags.DEFINE_config_file("config", None, "a config file: configs/NAME.py")


def run(main: Callable[[], int]) -> None:
    """Runs `main` and leaves: its code, or 2 and at most three lines for a user's mistake."""
    try:
        code = main()
    except ValueError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print("\n".join(["error: " + lines[0], *lines[1:3]]), file=sys.stderr)
        code = 2
    sys.exit(code)


def parse(argv: list[str]) -> Config | None:
    """The config that the command line asks for; None without --config.

    Raises:
        ValueError: a flag, key, value or file that is wrong.
    """
    try:
        rest = flags.FLAGS(argv)[1:]
    except SystemExit:
        raise
    except Exception as error:  # absl, ml_collections and the file itself raise what they like
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(text[:400]) from None
    if rest:
        raise ValueError(f"unknown argument {rest[0]!r}; settings are given as --config.KEY=VALUE")
    if _CONFIG.value is None:
        return None
    return configs.build(_CONFIG.value.to_dict())


def as_dict(config: Config) -> dict[str, Any]:
    """The config as it was understood, defaults filled in."""
    return configs.to_dict(config)


def methods() -> str:
    """The methods table in plain text: name, label, claim, needs, paper."""
    lines = []
    for name, row in table.ROWS.items():
        method = table.parse(name)
        target = table.claims(method)
        claim = " ".join(
            str(part)
            for part in (target.kind, target.divergence, f"gamma={target.gamma:g}")
            if part is not None
        )
        needed = ", ".join(table.needs(method)) or "nothing"
        said = table.bias(method)
        lines.append(f"{name:15} {row.label}")
        lines.append(f"{'':15} claim: {claim}" + (f"; biased: {said}" if said else ""))
        lines.append(f"{'':15} needs: {needed}; paper: {row.paper}")
        if row.refused:
            lines.append(f"{'':15} not for training: {row.refused}")
    lines.append("")
    lines.append(f"axes, as ROW@axis=value,...: {', '.join(table.AXES)}")
    return "\n".join(lines)
