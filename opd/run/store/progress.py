"""What a person sees while a run goes on: bars, and a line for each stage."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

Advance = Callable[..., None]


@contextlib.contextmanager
def progress(
    label: str, total: int | None, console: rich.console.Console | None = None
) -> Iterator[Advance]:
    """A bar with elapsed and remaining time; silent where the output is not a terminal.

    Yields `advance(steps=1, beside="")`, which stands beside the bar (a loss, an accuracy).
    """
    console = console or rich.console.Console()
    # The stream is asked, not rich: FORCE_COLOR and the like must not put bars into log files.
    quiet = not getattr(console.file, "isatty", lambda: False)()
    bars = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("eta"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[beside]}"),
        console=console,
        disable=quiet,
    )
    with bars:
        task = bars.add_task(label, total=total, beside="")

        def advance(steps: int = 1, beside: str | None = None) -> None:
            bars.advance(task, steps)
            if beside is not None:
                bars.update(task, beside=beside)

        yield advance


@dataclasses.dataclass
class Stages:
    """Names what a run is doing, on a line each, and keeps how long it took."""

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times the block; the line is printed when it is done."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        print(f"{name}: {self.seconds[name]:.0f} s", flush=True)
