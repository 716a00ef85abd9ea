"""Configs as dataclasses: bounds, what is said of them, older dictionaries, keys that are gone."""

import dataclasses
import math

import pytest

from opd import fields
from opd.fields import setting


@dataclasses.dataclass(frozen=True)
class Part:
    rate: float = setting(0.5, above=0)
    share: float = setting(0.5, at_least=0, at_most=1)
    decay: float = setting(0.0, at_least=0, below=1)
    mass: float | None = setting(None, above=0, at_most=1)
    inside: float = setting(0.5, above=0, below=1)
    count: int = setting(1, at_least=1)
    kind: str | None = setting(None, choices=("a", "b"))
    rates: tuple[float, ...] = setting((), above=0)
    free: float = 0.0


@dataclasses.dataclass(frozen=True)
class Whole:
    part: Part = Part()
    from_: str | None = None
    maybe: Part | None = None

    def check(self, path):
        """Refuses a word."""
        if self.from_ == "nowhere":
            raise ValueError(f"{path}.from: nowhere")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rate": 0.0}, "config.part.rate = 0.0: allowed is more than 0"),
        ({"share": -0.1}, "config.part.share = -0.1: allowed is 0 to 1"),
        ({"share": 1.1}, "config.part.share = 1.1: allowed is 0 to 1"),
        ({"decay": 1.0}, "config.part.decay = 1.0: allowed is 0 to below 1"),
        ({"decay": -1.0}, "config.part.decay = -1.0: allowed is 0 to below 1"),
        ({"mass": 0.0}, "config.part.mass = 0.0: allowed is above 0 and up to 1"),
        ({"mass": 1.5}, "config.part.mass = 1.5: allowed is above 0 and up to 1"),
        ({"inside": 1.0}, "config.part.inside = 1.0: allowed is above 0 and below 1"),
        ({"count": 0}, "config.part.count = 0: allowed is 1 or more"),
        ({"count": 1.5}, "config.part.count = 1.5: allowed is int"),
        ({"count": True}, "config.part.count = True: allowed is int"),
        ({"kind": "c"}, "config.part.kind = 'c': allowed are a, b"),
        ({"rates": (1.0, 0.0)}, "config.part.rates = (1.0, 0.0): allowed is more than 0"),
        ({"rates": (1.0, math.inf)}, "config.part.rates = (1.0, inf): allowed is a finite number"),
        ({"rate": math.nan}, "config.part.rate = nan: allowed is a finite number"),
        ({"free": math.inf}, "config.part.free = inf: allowed is a finite number"),
    ],
    ids=str,
)
def test_a_value_out_of_bounds_is_said_with_what_is_allowed(values, said):
    with pytest.raises(ValueError) as error:
        fields.check(Whole(Part(**values)), "config")
    assert str(error.value) == said


def test_the_ends_that_are_allowed_are():
    allowed = (
        {"share": 0.0}, {"share": 1.0}, {"decay": 0.0}, {"mass": 1.0}, {"mass": None}, {"count": 1},
        {"kind": "b"}, {"rates": (0.1,)}, {"rates": ()}, {"free": -1e9},
    )  # fmt: skip
    for values in allowed:
        fields.check(Whole(Part(**values)), "config")


def test_a_part_is_asked_whether_its_fields_fit_each_other():
    with pytest.raises(ValueError, match="^config.from: nowhere$"):
        fields.check(Whole(from_="nowhere"), "config")


def test_what_was_written_before_a_field_was_added_has_its_default():
    """Within parts, and parts that may be None, too; what the dataclass doesn't know stays."""
    now = dataclasses.asdict(Whole(maybe=Part(count=3)))
    then = {"part": {"rate": 0.5}, "maybe": {"count": 3}}
    assert fields.completed(then, Whole) == now
    assert fields.completed({}, Whole) == dataclasses.asdict(Whole())
    assert fields.completed({"part": {"count": 2}}, Whole)["part"]["count"] == 2
    assert fields.completed({"old": 1}, Whole)["old"] == 1


def test_keys_that_are_gone_are_found_wherever_they_stood():
    values = {"part": {"rate": 1.0, "width": 3}, "from": None, "depth": {"a": 1}}
    assert fields.unknown(values, Whole, "config") == {
        "config.part.width": 3,
        "config.depth": {"a": 1},
    }
    assert fields.unknown(fields.to_dict(Whole()), Whole, "config") == {}


def test_a_long_value_is_cut_in_an_error():
    assert fields.shown("x" * 9) == "'xxxxxxxxx'"
    assert fields.shown("x" * 10**6) == "'" + "x" * 199 + "..."


def test_a_whole_number_beyond_every_float_is_refused():
    with pytest.raises(ValueError, match=r"part.rate = 1000\d+[.]{3}: allowed is a float"):
        fields.cast("part.rate", 10**400, float)
