"""What the rules of part F say of made-up numbers."""

from made_up import Case

CASES: dict[str, list[Case]] = {}
