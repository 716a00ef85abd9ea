"""Scalars for TensorBoard, each on the disk when it is said.

Written here and not by a library: tensorboardX imports torch where there is one, two seconds of
every start, and its writer's thread loses those events that a kill or a full disk finds in it.

A file is a sequence of records: the length, 8 bytes; its check sum; an Event in Protocol Buffers'
encoding; its check sum. Of an Event these fields are used: wall_time (1), step (2), file_version
(3), summary (5) with values (1) of a tag (1) and a number (2), session_log (7) with a status (1).
"""

from __future__ import annotations

import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from opd import processes

VERSION = b"brain.Event:2"
START = 1  # a session's status: what was said of this step and later ones is taken back


class Board:
    """One events file. What files before it said of updates from `update` on is taken back."""

    def __init__(self, folder: Path, update: int):
        if not processes.first():
            self._file = open(os.devnull, "ab")
            return
        folder.mkdir(parents=True, exist_ok=True)
        # Two starts within a second would have one name.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab")
        self._write(0, _bytes(3, VERSION))
        self._write(update, _bytes(7, _number(1, START)))

    def scalars(self, values: Mapping[str, float], update: int) -> None:
        """Numbers of an update, by tag."""
        if values:
            said = (_bytes(1, _bytes(1, tag.encode()) + _float(2, x)) for tag, x in values.items())
            self._write(update, _bytes(5, b"".join(said)))

    def close(self) -> None:
        self._file.close()

    def _write(self, step: int, what: bytes) -> None:
        event = _double(1, time.time()) + _number(2, step) + what
        length = struct.pack("<Q", len(event))
        self._file.write(length + _check_sum(length) + event + _check_sum(event))
        self._file.flush()


# --- Protocol Buffers: a field's number and how it is written, and what it holds ----------------


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    try:
        return _varint(field << 3 | 5) + struct.pack("<f", value)
    except OverflowError:  # beyond float32
        return _float(field, math.copysign(math.inf, value))


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


# --- check sums ---------------------------------------------------------------------------------


def _castagnoli(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ 0x82F63B78 * (byte & 1)
    return byte


TABLE = tuple(map(_castagnoli, range(256)))


def _check_sum(data: bytes) -> bytes:
    """CRC-32C, turned and shifted as these files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
