"""Scalars for TensorBoard, read back by another implementation of its files."""

import math
import struct

import numpy as np
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog

from opd.run.store.board import Board


def events(folder):
    """Every event of a folder's one file; its records are whole and their check sums right."""
    (path,) = folder.glob("events.out.tfevents.*")
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        record, data = data[: length + 16], data[length + 16 :]
        body = record[12:-4]
        for part, said in ((record[:8], record[8:12]), (body, record[-4:])):
            crc = crc32c(part)
            masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
            assert struct.pack("<I", masked) == said
        found.append(Event.FromString(body))
    return found


def test_what_is_said_can_be_read_at_once(tmp_path):
    board = Board(tmp_path / "board", 7)
    values = {"train/kl": 0.25, "eval/ä": -3.5e-12, "train/infinite": math.inf, "huge": 1e300}
    board.scalars(values, 300)
    board.scalars({}, 301)
    first, start, said = events(tmp_path / "board")  # before it is closed
    assert first.file_version == "brain.Event:2" and first.wall_time > 1.7e9
    assert (start.step, start.session_log.status) == (7, SessionLog.START)
    with np.errstate(over="ignore"):
        expected = {tag: float(np.float32(value)) for tag, value in values.items()}
    assert {one.tag: one.simple_value for one in said.summary.value} == expected
    assert said.step == 300
    board.close()


def test_a_number_that_is_none_stays_none(tmp_path):
    board = Board(tmp_path, 0)
    board.scalars({"train/kl": math.nan}, 2**40)
    board.close()
    *_, said = events(tmp_path)
    assert math.isnan(said.summary.value[0].simple_value) and said.step == 2**40
