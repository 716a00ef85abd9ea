"""What processes of one run must have in common, seen from the second of two."""

import json

import pytest

from opd import processes
from opd.run.settings.config import Config
from opd.run.store import checkpoint
from opd.run.training import checks


@pytest.fixture
def second(monkeypatch):
    """The second of two processes, of which the first says the same, but for what is given."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "first", lambda: False)
    monkeypatch.setattr(checks, "SHOWN", 1)
    monkeypatch.setattr(checks.time, "sleep", lambda seconds: None)

    def says(**other):
        def gathered(text):
            first = json.loads(text) if text.startswith("{") else None
            return [text if first is None else json.dumps(first | other), text]

        monkeypatch.setattr(processes, "gathered", gathered)

    says()
    return says


def test_a_workdir_that_is_not_there_for_all_is_refused(second, tmp_path):
    with pytest.raises(processes.Apart, match="not one folder for all processes") as error:
        checks.agree(Config(), {"data": {"sha256": "1"}}, tmp_path)
    assert f"--workdir={tmp_path}" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(processes.Apart, match="not one folder"):
        checks.agree(Config(), {}, tmp_path / "nowhere")


def test_a_shared_workdir_is_left_as_it_was(second, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "first", lambda: True)
    checks.agree(Config(), {"data": {"sha256": "1"}}, tmp_path / "run")
    assert [*(tmp_path / "run").iterdir()] == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"config.optimizer.warmup": "7"}, r"config\.optimizer\.warmup: 7 at process 0, 5 at"),
        (
            {"inputs.data.sha256": "'2'"},
            r"inputs\.data\.sha256: '2' at process 0, '1' at process 1",
        ),
    ],
)
def test_config_and_data_that_differ_are_named(second, tmp_path, other, said):
    second(**other)
    with pytest.raises(processes.Apart, match=said):
        checks.agree(Config(), {"data": {"sha256": "1"}}, tmp_path)


def test_one_process_alone_agrees_and_writes_nothing(tmp_path):
    checks.agree(Config(), {}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_first_holds_the_workdir_for_all(tmp_path, monkeypatch):
    with checkpoint.lock(tmp_path):
        with pytest.raises(ValueError, match="another process is at work"):
            checkpoint.lock(tmp_path)
        monkeypatch.setattr(processes, "count", lambda: 2)
        monkeypatch.setattr(processes, "first", lambda: False)
        for taken in (False, True):
            said = json.dumps(taken)
            monkeypatch.setattr(processes, "gathered", lambda text, said=said: [said, text])
            if taken:
                with pytest.raises(ValueError, match="another process is at work"):
                    checkpoint.lock(tmp_path)
            else:
                checkpoint.lock(tmp_path).close()


def test_others_do_not_hold_it_themselves(tmp_path, monkeypatch):
    """Else the first, which comes later, would find it taken."""
    with monkeypatch.context() as patch:
        patch.setattr(processes, "count", lambda: 2)
        patch.setattr(processes, "first", lambda: False)
        patch.setattr(processes, "gathered", lambda text: ["false", text])
        file = checkpoint.lock(tmp_path)
    checkpoint.lock(tmp_path).close()
    file.close()
