"""Flags of several processes, and what meetings are where there is one process alone."""

import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd import processes

WHOLE = ("host:1234", 4, 3, False)


def test_flags_say_how_processes_find_each_other():
    assert processes.wanted(None, None, None, False) is None
    assert processes.wanted(None, None, None, True) == {}
    told = processes.wanted(*WHOLE)
    assert told["coordinator_address"] == "host:1234"
    assert (told["num_processes"], told["process_id"]) == (4, 3)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("host:1234", None, None, False), "--coordinator without --processes"),
        ((None, None, 1, False), "--process without --coordinator"),
        ((None, 2, 1, False), "--processes without --coordinator"),
        (("host:1234", 4, 4, False), "--process=4: allowed is 0 to 3"),
        (("host", 4, 3, False), "--coordinator=host: allowed is HOST:PORT"),
        (("host:0", 4, 3, False), "--coordinator=host:0: allowed is HOST:PORT"),
        (("host:65536", 4, 3, False), "allowed is HOST:PORT"),
        (("host:1234", None, None, True), "--coordinator: means nothing with --distributed"),
    ],
)
def test_flags_that_are_half_given_are_refused_on_one_line(flags, said):
    with pytest.raises(ValueError, match=".+") as refused:
        processes.wanted(*flags)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.fixture
def joining(monkeypatch):
    """JAX's own start, to be replaced; the signal's handler stays as it is."""
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    return lambda act: monkeypatch.setattr(jax.distributed, "initialize", act)


def test_processes_that_do_not_come_end_the_others(joining, monkeypatch, capsys):
    left = []
    monkeypatch.setattr(processes, "WAIT", 0.01)
    monkeypatch.setattr(processes, "leave", left.append)
    joining(lambda **told: time.sleep(1))
    processes.start(processes.wanted(*WHOLE))
    assert left == [2]
    said = capsys.readouterr().err
    assert said == "error: not all processes came to host:1234 within 0.01 s\n"


def test_processes_that_come_are_left_alone(joining, monkeypatch):
    told, left = [], []
    monkeypatch.setattr(processes, "WAIT", 0.2)
    monkeypatch.setattr(processes, "leave", left.append)
    joining(lambda **given: told.append(given))
    processes.start(processes.wanted(*WHOLE))
    time.sleep(0.4)
    assert left == [] and told[0]["heartbeat_timeout_seconds"] <= 30
    assert told[0]["coordinator_address"] == "host:1234"


def test_a_start_that_jax_refuses_is_said_on_one_line(joining):
    def refuse(**told):
        raise RuntimeError("address in use:\nhost")

    joining(refuse)
    with pytest.raises(ValueError, match="--coordinator=host:1234: .*in use: host"):
        processes.start(processes.wanted(*WHOLE))
    with pytest.raises(ValueError, match="--distributed: JAX finds no cluster"):
        processes.start({})


def test_a_process_alone_is_the_first_and_meets_nobody():
    assert processes.count() == 1 and processes.first()
    assert processes.gathered("a") == ["a"] and processes.told((1, 2)) == (1, 2)
    assert processes.some(True) and not processes.some(False)
    assert processes.mistake(None) is None and processes.mistake("wrong") == "wrong"
    assert processes.after_first(lambda: 3) == 3
    processes.agree({"config.updates": "3"})
    with pytest.raises(KeyError):
        processes.together(lambda: {}["missing"], ValueError)


def test_arrays_on_the_host_are_numpys():
    tree = processes.on_host({"a": jnp.arange(3), "b": np.ones(2), "c": None})
    assert isinstance(tree["a"], np.ndarray) and tree["c"] is None
    assert tree["a"].tolist() == [0, 1, 2] and tree["b"].tolist() == [1, 1]


@pytest.fixture
def second_of_two(monkeypatch):
    """This process as the second of two, where nothing is asked of the first."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "first", lambda: False)
    return monkeypatch


def heard(monkeypatch, *others):
    """What the processes before this one say in every meeting."""
    monkeypatch.setattr(processes, "gathered", lambda text: [*others, text])


def test_the_first_process_decides(second_of_two):
    heard(second_of_two, "[1, 2]")
    assert processes.told({"what": "is said here"}) == [1, 2]


def test_one_is_enough_for_some(second_of_two):
    heard(second_of_two, "1")
    assert processes.some(False)
    heard(second_of_two, "0")
    assert processes.some(True) and not processes.some(False)


def test_values_that_differ_are_named_with_both(second_of_two):
    heard(second_of_two, '{"a": "1", "b": "2"}')
    processes.agree({"a": "1", "b": "2"})
    with pytest.raises(processes.Apart, match="disagree on b: 2 at process 0, 3 at process 1"):
        processes.agree({"a": "1", "b": "3"})
    with pytest.raises(processes.Apart, match="disagree on c: not given at process 0, 1 at"):
        processes.agree({"a": "1", "b": "2", "c": "1"})


def test_a_mistake_elsewhere_is_ours_too(second_of_two):
    heard(second_of_two, "no such file")
    assert processes.mistake(None) == "process 0: no such file"
    assert processes.mistake("no such key") == "no such key"
    with pytest.raises(ValueError, match="process 0: no such file"):
        processes.together(lambda: 1, ValueError)
    heard(second_of_two, "")
    assert processes.together(lambda: 1, ValueError) == 1


def test_an_operation_cut_short_is_told_from_other_errors(second_of_two):
    lost = RuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
    assert processes.cut_short(lost) and not processes.cut_short(RuntimeError("out of memory"))
    wrapped = ValueError("a save failed")
    wrapped.__cause__ = lost
    assert processes.cut_short(wrapped) and not processes.cut_short(ValueError("gloo"))
    second_of_two.setattr(processes, "count", lambda: 1)
    assert not processes.cut_short(lost)


def test_only_the_first_speaks(second_of_two, capsys):
    with processes.one_voice():
        print("twice")
    second_of_two.setattr(processes, "first", lambda: True)
    with processes.one_voice():
        print("once")
    assert capsys.readouterr().out == "once\n"
