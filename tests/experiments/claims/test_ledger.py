"""The ledger, its command and what it leaves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.claims import __main__ as command
from experiments.claims import page
from experiments.claims.claim import (
    CAVEAT,
    FAILS,
    HOLDS,
    OPEN,
    VERDICTS,
    Claim,
    Finding,
    Judgement,
    Number,
    Outcome,
)
from experiments.claims.ledger import CLAIMS, PARTS

FOLDER = Path(page.__file__).parent
COUNTS = {"A": 13, "B": 17, "C": 10, "D": 10, "E": 12, "F": 3}
KEYS = "id title stated verdict caveat repaired number scope seeds seconds".split()


def outcome(verdict=FAILS, caveat=None, repaired=HOLDS, value=0.25, **claim):
    said = Claim("B3", "a | title", "What it says.", measure, repaired="Repaired.", **claim)
    numbers = {"x": Number("the | number", value, 0.125, 0.5), "y": Number("another", 3, 3, 3)}
    found = Finding(numbers, "x", "trees", range(2), example="| a |\n|---|\n| b |")
    return Outcome(said, found, Judgement(verdict, caveat, repaired), 1.0)


def measure(effort):
    """Never called."""


def test_every_claim_is_listed_in_order():
    assert list(CLAIMS) == [f"{part}{i + 1}" for part, n in COUNTS.items() for i in range(n)]
    for letter, part in PARTS.items():
        assert all(claim.id.startswith(letter) for claim in part.CLAIMS)
        assert part.__doc__.startswith(letter)


@pytest.mark.parametrize("id", CLAIMS)
def test_a_claim_says_what_it_must(id):
    claim = CLAIMS[id]
    assert (claim.measure is None) == (claim.judge is None)
    if claim.measure is None:
        assert claim.needs and not (claim.repaired or claim.wrong or claim.advice)
    else:
        assert claim.wrong and claim.measure.__doc__ and claim.judge.__doc__
    assert claim.stated.endswith(".") and len(claim.title) < 60


def test_what_is_committed_fits_together():
    """The last full run's claims, its page, and the verdicts that --check asks for."""
    records = json.loads((FOLDER / "claims.json").read_text())
    expected = json.loads((FOLDER / "expected.json").read_text())
    text = (FOLDER / "README.md").read_text()
    assert [record["id"] for record in records] == list(CLAIMS)
    for record in records:
        claim = CLAIMS[record["id"]]
        assert list(record) == KEYS and record["verdict"] in VERDICTS
        assert (record["title"], record["stated"]) == (claim.title, claim.stated)
        assert (record["scope"] == "exact") == (record["id"] in expected) == bool(claim.measure)
        if claim.measure:
            said = {"verdict": record["verdict"]}
            if record["repaired"]:
                said["repaired"] = record["repaired"]["verdict"]
            assert expected[record["id"]] == said
            assert f"### {claim.id}: {claim.title}: {record['verdict']}\n" in text
            assert claim.wrong in text
            if record["verdict"] in (FAILS, CAVEAT):
                assert claim.advice and claim.advice in text
        else:
            assert record["verdict"] == OPEN and claim.needs in record["caveat"]
            assert f"- **{claim.id}, " in text


def test_a_record_is_as_promised(tmp_path):
    page.write([outcome(value=float("nan"))], tmp_path, quick=True, seconds=1.0)
    (record,) = json.loads((tmp_path / "claims.json").read_text())
    assert list(record) == KEYS
    assert record["number"] == {"name": "the | number", "value": None, "low": 0.125, "high": 0.5}
    assert record["repaired"] == {"statement": "Repaired.", "verdict": HOLDS}
    assert record["seeds"] == [0, 1] and record["scope"] == "exact"


def test_the_page_shows_the_claim_and_its_example(tmp_path):
    page.write([outcome(advice="Do this.", wrong="That.")], tmp_path, quick=False, seconds=1.0)
    text, html = ((tmp_path / name).read_text() for name in ("README.md", "claims.html"))
    for part in ("0.25 (0.125 to 0.5)", "**Repaired: holds.** Repaired.", "Do this.", "That."):
        assert part in text
    assert "- another: 3\n" in text and "a \\| title" in text
    assert "<td>b</td>" in html and 'href="#b3"' in html and 'id="b3"' in html


def test_a_difference_is_said_and_a_missing_claim_is_one():
    expected = {"B3": {"verdict": FAILS, "repaired": HOLDS}}
    assert command.differences([outcome()], expected) == []
    (said,) = command.differences([outcome(verdict=OPEN)], expected)
    assert "B3" in said and OPEN in said and FAILS in said
    assert len(command.differences([outcome(repaired=FAILS)], expected)) == 1
    assert len(command.differences([outcome()], {})) == 2
    trained = Outcome(Claim("B3", "", "", needs="x"), None, Judgement(OPEN), 0.0)
    assert command.differences([trained], {}) == []
    assert len(command.differences([trained], expected)) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (1e-9, "1.0e-09"), (250000.0, "2.5e+05"), (17.0, "17"), (0.0, "0")],
)
def test_numbers_have_three_digits(value, text):
    assert page.written(Number("", value, value, value)) == text


@pytest.mark.parametrize(
    ("argv", "said"),
    [(["--ids=A1,Z9"], "Z9"), (["--quik"], "--quik"), (["--ids="], "no claim")],
)
def test_a_mistake_is_one_line_and_exit_code_2(argv, said):
    with pytest.raises(ValueError, match=said) as error:
        command.prepare(argv)
    assert "\n" not in str(error.value)


def test_the_list_has_ids_and_titles(capsys):
    command.prepare(["--list"])()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CLAIMS) and lines[0].split() == ["A1", *CLAIMS["A1"].title.split()]


@pytest.mark.slow
def test_the_command_runs_checks_and_refuses(tmp_path):
    def run(*flags):
        asked = [sys.executable, "-m", "experiments.claims", f"--workdir={tmp_path}", *flags]
        return subprocess.run(asked, capture_output=True, text=True, cwd=FOLDER.parent.parent)

    done = run("--ids=B3,A1", "--quick", "--check")
    assert done.returncode == 0, done.stderr
    assert "all verdicts are as expected" in done.stdout and "never an increase" in done.stdout
    records = json.loads((tmp_path / "claims.json").read_text())
    assert [record["id"] for record in records] == ["A1", "B3"]
    wrong = run("--ids=A99")
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1
