"""What the rules of part E say of made-up numbers."""

from made_up import Case

CASES: dict[str, list[Case]] = {}
