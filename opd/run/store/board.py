"""Scalars for TensorBoard, each on the disk when it is said.

tensorboardX's own writer hands events to a thread: a kill loses those of two minutes, and on a full
disk the thread dies and the training waits for it forever. Here they are written in place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog


class Board:
    """One events file. What files before it said of updates from `update` on is taken back."""

    def __init__(self, folder: Path, update: int):
        folder.mkdir(parents=True, exist_ok=True)
        # Two starts within a second would have one name.
        self._events = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        self._write(update, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, values: Mapping[str, float], update: int) -> None:
        """Numbers of an update, by tag."""
        for tag, value in values.items():
            self._write(update, summary=summary.scalar(tag, value))
        self._events.flush()

    def close(self) -> None:
        self._events.close()

    def _write(self, update: int, **what) -> None:
        self._events.write_event(Event(step=update, wall_time=time.time(), **what))
