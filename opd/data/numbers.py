"""The one number that an answer says, however it is dressed: unit, currency, LaTeX, a remark."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from fractions import Fraction

from opd.data import answers

# Nobody counts beyond it, and a number of a billion digits would take forever to compare.
MOST_DIGITS = 1000


@dataclasses.dataclass(frozen=True)
class Number:
    """A number as it is written, and what the word behind it makes of it: 1/100 of "%"."""

    value: Fraction
    scale: Fraction = Fraction(1)

    def same(self, other: Number) -> bool:
        """Whether they are equal, exactly; a scale that only one of them names may be a unit.

        "42 %" is 42 and 0.42, "1.5 million" is 1.5 and 1500000.
        """
        if self.value * self.scale == other.value * other.scale:
            return True
        return 1 in (self.scale, other.scale) and self.value == other.value


# --- what a number is dressed in ---------------------------------------------------------------

THIN = "\u2009"  # any space that isn't ordinary: it groups digits
_CHARACTERS = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63", "-")
    | dict.fromkeys(map(chr, (0xA0, *range(0x2002, 0x200B), 0x202F)), THIN)
    | dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", None)
    | {chr(0xFEE0 + code): chr(code) for code in range(0x21, 0x7F)}  # full width
    | {"\u2019": "'", "\u2044": "/", "\u2215": "/", "\u00b7": "×", "\u22c5": "×", "∶": ":"}
    | {"½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "⅕": " 1/5", "⅛": " 1/8"}
)
_INSIDE = r"\{\s*(-?[0-9.,]+)\s*\}"
_WRAPS = (
    r"\\(?:text\w*|math(?:bf|it|rm|sf|tt)|operatorname|emph|underline|mbox|boldsymbol|boxed|fbox)"
    r"(?![A-Za-z])\s*\{([^{}]*)\}"
)
_CURRENCY = (
    r"(?:\b(?:US|CA|A)?[$€£¥₹₩₽₺₪₫฿¢]|[$€£¥₹₩₽₺₪₫฿¢]"
    r"|\b(?:USD|EUR|GBP|JPY|CNY|RMB|INR|CHF|CAD|AUD|Rs\.?)(?=\s*[-+]?[0-9.]))"
)
# In this order: what is found, and what stands in its place.
_UNDRESSED = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        # LaTeX
        (r"\\[,;:!]|(?<=[0-9])~(?=[0-9])", THIN),
        (r"\\([%$#&_])", r"\1"),
        (r"\{,\}", ","),
        (r"\\[cdt]?frac\s*" + _INSIDE + r"\s*" + _INSIDE, r" \1/\2 "),
        (r"\\[cdt]?frac\s*([0-9])\s*([0-9])", r" \1/\2 "),
        (_WRAPS, r" \1 "),
        (_WRAPS, r" \1 "),  # one in another
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])", "°"),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", "×"),
        (r"\\(?:approx|simeq|sim)(?![A-Za-z])", "≈"),
        (r"\\(?:to|rightarrow|Rightarrow|implies|therefore)(?![A-Za-z])", "→"),
        (r"\\(?:left|right|displaystyle|quad|qquad|bf|rm)(?![A-Za-z])|\\[()\[\] ]", " "),
        (r"([_^])\s*\{\s*([^{}]*?)\s*\}", r"\1\2"),
        (r"\\\\", " "),
        # Markdown and HTML
        (r"</?[A-Za-z][^<>]*>|`+|~~", " "),
        (r"(?<![0-9])\*{2,}|\*{2,}(?![0-9])|(?<![0-9])\*(?=\S)|(?<=\S)\*(?![0-9*])", " "),
        (r"^\s*\*\s|(?<![0-9A-Za-z])_+|_+(?![0-9A-Za-z])", " "),
        # Money, its sign on either side
        (r"([-+])\s*" + _CURRENCY + r"\s*(?=[0-9.])", r"\1"),
        (_CURRENCY + r"\s*([-+])\s*(?=[0-9.])", r" \1"),
        (_CURRENCY, " "),
        # What would look like a number, a sum or an equality
        (r">=", "≥"),
        (r"<=", "≤"),
        (r"!=|=/=", "≠"),
        (r"[-=]>", "→"),
        (r"\.{2,}", " … "),
        (r"(?<=[A-Za-z])\.(?=[0-9])", ". "),
        (r"(?<=[A-Za-z°])\^[-+]?[0-9]+", ""),  # of a unit, cm^2
        (r"([-+])\s*\(\s*([0-9.,/]+)\s*\)", r"\1\2"),
        # Digits as others group them: 1.000,50 and 1.000.000
        (r"(?<![0-9.,])([0-9]{1,3}(?:\.[0-9]{3})+),([0-9]++)(?![0-9.,]*[0-9])", r"\1;\2"),
        (r"(?<![0-9.,])([0-9]{1,3}(?:\.[0-9]{3}){2,})(?![0-9.,]*[0-9])", r"\1;"),
    )
)
_DOTTED = re.compile(r"([0-9]{1,3}(?:\.[0-9]{3})+);([0-9]*)")


def _undressed(text: str) -> str:
    """A text without markup and money, its digits, signs and spaces of one kind."""
    if not text.isascii():
        text = text.translate(_CHARACTERS)
        text = "".join(str(int(c)) if c.isdecimal() else c for c in text)
    for pattern, by in _UNDRESSED:
        text = pattern.sub(by, text)
    return _DOTTED.sub(lambda m: m[1].replace(".", "") + ("." + m[2] if m[2] else ""), text)


# --- a number ----------------------------------------------------------------------------------

# Groups of three, of two and a last one of three as in India; "1,2,3" is three numbers.
_WHOLE = (
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}"
    rf"|[0-9]{{1,3}}(?:[{THIN}'_][0-9]{{3}})+|[0-9]+)(?![0-9])"
)
_DECIMAL = rf"(?:{_WHOLE}(?:\.[0-9]+)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"(?<![0-9A-Za-z_^.])(?:(?P<mixed>[0-9]+)\s+(?=[0-9]+\s*/\s*[0-9]))?(?P<top>{_DECIMAL})"
    r"(?:[eE](?P<exponent>[-+]?[0-9]{1,3})(?![0-9A-Za-z])"
    r"|\s*[x×*]\s*10\s*\^\s*\(?(?P<power>[-+]?[0-9]{1,3})\)?(?![0-9]))?"
    rf"(?:\s*/\s*(?P<bottom>{_DECIMAL}))?"
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALES |= {"k": 3, "K": 3, "M": 6, "bn": 9, "B": 9}
_SCALE = re.compile(
    r"\s*-?(?:(?P<percent>%|(?:percent|per cent|pct)\b)|(?P<word>" + "|".join(_SCALES) + r")\b)"
)
_MINUS = re.compile(r"(?:-|\b(?:minus|negative))\s*\Z", re.IGNORECASE)
# In the midst of a text one that stands apart, or follows a word, digit or bracket, subtracts.
_MINUS_IN_TEXT = re.compile(r"(?:(?<![A-Za-z0-9_)\].])-|\b(?:minus|negative)\s+)\Z", re.IGNORECASE)


def _number(match: re.Match[str], text: str, minus: bool) -> Number | None:
    """What was found in a text; None for a division by zero, or digits without end."""
    if match.end() - match.start() > MOST_DIGITS:
        return None
    top, bottom, mixed = (_fraction(match[name]) for name in ("top", "bottom", "mixed"))
    if bottom == 0:
        return None
    value = top * Fraction(10) ** int(match["exponent"] or match["power"] or 0)
    value = (mixed or 0) + value / (1 if bottom is None else bottom)
    behind = _SCALE.match(text, match.end())
    power = 0 if behind is None else -2 if behind["percent"] else _SCALES[behind["word"]]
    return Number(-value if minus else value, Fraction(10) ** power)


def _fraction(digits: str | None) -> Fraction | None:
    return None if digits is None else Fraction(re.sub(rf"[,{THIN}'_]", "", digits))


# --- an answer that says one -------------------------------------------------------------------

_BRACKETED = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_EQUALITY = re.compile(r"[=≈→]")
# A digit that isn't a part of a word: of 42 cm2, CO2, x_1 none.
_DIGIT = re.compile(r"(?<![A-Za-z_])(?<![A-Za-z_][0-9])[0-9]")
# What comes after an answer and isn't it: a sentence, a clause, a remark of where and why.
_REMARK = re.compile(
    r"(?:(?<![.!?;:,(\[…])[.!?;:,(\[…]++\s*+|(?<!-)-++\s*+(?=[^\W\d_]{2}))(?P<first>[^\W\d_]+)"
    r"|\s(?:because|since|as|so|for|which|that|where|when|while|if|given|after|during|due|thus"
    r"|hence|per|in|at|on|each|every|with|from|out|of)\b",
    re.IGNORECASE,
)
# But so begin more of an answer, another one, and corrections: 42, and 43; 42 in all, or 43.
_MORE = {"and", "then", "but", "plus", "minus", "times"}
_ANOTHER = re.compile(
    r"(?:\bor\s|(?<=[.,;:!?…(-])\s*(?:or|wait|no|actually|rather|sorry|maybe|perhaps|possibly"
    r"|alternatively|either|correction|hmm|oops|instead)\b).*[0-9]",
    re.IGNORECASE,
)
# What makes of a number another one, or a statement about it.
_BEFORE = re.compile(
    r"[<>≤≥≠±√∞|×*/^\\]|(?:[A-Za-z0-9_)](?:\s*[-+]\s+|[-+])|[-+]\s*[-+]\s*)\Z"
    r"|\b(?:not|than|between|sqrt|log|ln|sin|cos|tan|exp)\b|n't\b",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"!*\s*(?:[×*^+²³¹⁰-⁹π√∞\\]|/\s*[^A-Za-z\s]|pi\b|[nxyz]\b"
    r"|(?:x|-)\s*[-+]?[0-9])"
)

_SPACED = re.compile(r"(?<![0-9.,/])[0-9]{1,3}(?: [0-9]{3})++(?![0-9/])")
_COMMA = re.compile(
    rf"(?<![0-9.,{THIN}])([0-9]++(?:{THIN}[0-9]{{3}})*+(?=,(?![0-9]{{3}}(?![0-9])))|0),([0-9]++)(?!,[0-9])"
)
# But (1,2), [1,2) and {1,2} are pairs, intervals and sets.
_LISTED = re.compile(r"[(\[{][^()\[\]{}]*+[)\]}]")
_LIST_COMMA = re.compile(r",(?![0-9]{3}(?![0-9]))")


def declared(text: str) -> Number | None:
    """The number that an answer of one line is; None where it says none, or more than one.

    A remark may follow it, in brackets or after the number: "42 apples (6 * 7)", "$42, since 6 *
    7". Several numbers are no answer: "42 or 43", "42 43", "40 + 2", "42-43". Of equalities
    whichever side is a number: "x = 42", "6 * 7 = 42".
    """
    line = _grouped(_undressed(text))
    first = _NUMBER.search(line)
    if first is None:
        return None
    if not _ANOTHER.search(line, first.end()):
        line = _without_remarks(line)
    sides = [_one(side) for side in _EQUALITY.split(line)]
    return _agreed(side for side in sides if side is not None)


def _without_remarks(line: str) -> str:
    """A line without what is in brackets, unless the number is, and what follows the number."""
    for _ in range(3):  # brackets in brackets
        outside = _BRACKETED.sub(" ", line)
        line = outside if _DIGIT.search(outside) else line
    first = _NUMBER.search(line)
    remark = first and _REMARK.search(line, first.end())
    if not remark or (remark["first"] or "").lower() in _MORE:
        return line
    return line[: remark.start()]


def _grouped(line: str) -> str:
    """1 000 as one number and 10,5 as a decimal, which in a text would be two numbers."""
    line = _SPACED.sub(lambda match: match[0].replace(" ", THIN), line)
    line = _LISTED.sub(lambda match: _LIST_COMMA.sub(", ", match[0]), line)
    return _COMMA.sub(r"\1.\2", line)


def _one(side: str) -> Number | None:
    """The one number of a text without remarks."""
    match = _NUMBER.search(side)
    if match is None:
        return None
    before, after = side[: match.start()], side[match.end() :]
    if _BEFORE.search(before) or _AFTER.match(after) or _DIGIT.search(after):
        return None
    return _number(match, side, bool(_MINUS.search(before)))


def _agreed(numbers: Iterable[Number]) -> Number | None:
    """The number that all of them are."""
    first, *others = [*numbers] or [None]
    return first if all(other.same(first) for other in others) else None


def last(text: str) -> Number | None:
    """The last number of a text."""
    line = _undressed(text)
    matches = list(_NUMBER.finditer(line))
    if not matches:
        return None
    before = line[: matches[-1].start()]
    return _number(matches[-1], line, bool(_MINUS_IN_TEXT.search(before)))


def final(text: str) -> Number | None:
    """The number a worked answer ends in: after the last `####`, in the last box, or the last one.

    A text that has a marker or a box is taken at its word: if no number is there, nothing was
    answered. What stands in a thought isn't looked at.
    """
    text = answers.after_thought(text)
    line = answers.marked(text)
    if line is None:
        line = answers.boxed(text)
    return last(text) if line is None else declared(line)


def parse(text: str) -> Number:
    """The one number that an answer to grade by is: "1,200", "$5", "-3.50", "1/2", "42 km".

    Raises:
        ValueError: the text is anything else, or says more than that.
    """
    number = declared(text)
    if number is None or len(_NUMBER.findall(_grouped(_undressed(text)))) != 1:
        raise ValueError(f"{text!r:.60} is not a number")
    return number
