"""A stranger's program ends in time and in memory, and leaves nothing behind."""

import resource
import threading
import time

import pytest

from opd.data.bounds import OutOfTime, bounded

MUCH = 1 << 30


def forever():
    while True:
        pass


@pytest.mark.parametrize("thread", ["main", "other"])
def test_what_never_ends_is_ended(thread):
    ended = []

    def run():
        began = time.monotonic()
        with pytest.raises(OutOfTime), bounded(0.05, MUCH):
            forever()
        ended.append(time.monotonic() - began)

    if thread == "main":
        run()
    else:
        other = threading.Thread(target=run)
        other.start()
        other.join()
    assert 0.04 < ended[0] < 5


def test_what_ends_in_time_is_not_disturbed_later():
    for _ in range(50):
        with bounded(0.3, MUCH):
            pass
    time.sleep(0.5)


def test_what_wants_too_much_memory_is_refused_and_the_limit_is_lifted():
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), bounded(5, 1 << 28):
        bytes(1 << 29)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert len(bytes(1 << 29)) == 1 << 29


def test_an_error_of_the_block_is_what_is_raised():
    with pytest.raises(KeyError), bounded(5, MUCH):
        raise KeyError("x")
