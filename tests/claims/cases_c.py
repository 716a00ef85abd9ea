"""What the rules of part C say of made-up numbers."""

from made_up import Case

CASES: dict[str, list[Case]] = {}
