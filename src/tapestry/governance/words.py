"""The words of a charter: kinds of decision, roles, and the texts that stand for exact numbers.

Shares, thresholds and periods are text (`2/3`, `more than 1/2`, `14 days`) with one normal form each, so that
a charter is read without a table of units and counted without a rounded number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, StringConstraints

Kind = Literal[
    "admit",
    "suspend",
    "expel",
    "ratify-plan",
    "revise-plan",
    "open-phase",
    "change-charter",
    "accept-release",
    "revoke-release",
    "appoint-operator",
    "replace-root-key",
    "hear-appeal",
]
"""What is put to the vote."""
Role = Literal["member", "steward", "auditor", "core-operator"]
"""`member` trains; `steward` looks after proposals; `auditor` checks and reports; `core-operator` runs the
core. One party may have several, but who runs the core does not audit it."""
Category = Literal["open", "unique-open", "controlled", "sovereign", "private"]
"""Of a dataset; the words of its card. Held against `tapestry.catalog.words` by a test."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
ROLES: Final[tuple[Role, ...]] = get_args(Role)
CATEGORIES: Final[tuple[Category, ...]] = get_args(Category)
ABOUT_ONE: Final[frozenset[Kind]] = frozenset(
    ("admit", "suspend", "expel", "appoint-operator", "replace-root-key", "hear-appeal")
)
"""Decisions about one party, never several: with two counted out at once, few could decide about many."""

MAX_TERM: Final = 1000
MAX_PERIOD_S: Final = 3660 * 86400
_SHARE: Final = re.compile(r"(0|1)|([1-9][0-9]{0,3})/([1-9][0-9]{0,3})|([0-9]{1,3}) ?%")
_PERIOD: Final = re.compile(r"([1-9][0-9]{0,8}) (second|minute|hour|day|week)s?")
_SECONDS: Final = {"week": 7 * 86400, "day": 86400, "hour": 3600, "minute": 60, "second": 1}
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@lru_cache(maxsize=4096)
def share(text: str) -> Fraction:
    """The share that `text` names, from 0 to 1. Raises `ValueError`."""
    found = _SHARE.fullmatch(text)
    if found is None:
        raise ValueError(f'{text[:40]!r} is no share: write "2/3", "50 %", "0" or "1"')
    if found[1]:
        value = Fraction(int(found[1]))
    elif found[4]:
        value = Fraction(int(found[4]), 100)
    else:
        if max(int(found[2]), int(found[3])) > MAX_TERM:
            raise ValueError(f"{text!r} has a term above {MAX_TERM}: take a simpler fraction")
        value = Fraction(int(found[2]), int(found[3]))
    if value > 1:
        raise ValueError(f"{text!r} is more than all: a share is at most 1")
    return value


def text_of(value: Fraction) -> str:
    """In lowest terms: `2/3`, `0`, `1`."""
    return str(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """What a share must reach: at least `share`, or, where `strict`, more than it."""

    share: Fraction
    strict: bool

    def reached(self, part: Fraction) -> bool:
        return part > self.share if self.strict else part >= self.share

    def least(self, total: int) -> int:
        """The smallest whole number of `total` that reaches it; above `total` where none does."""
        exact = self.share * total
        floor = exact.numerator // exact.denominator
        if self.strict:
            return floor + 1
        return floor if floor == exact else floor + 1

    def __str__(self) -> str:
        return f"{'more than' if self.strict else 'at least'} {text_of(self.share)}"


@lru_cache(maxsize=4096)
def bound(text: str) -> Bound:
    """`more than 1/2` or `at least 2/3`. Raises `ValueError`."""
    for words, strict in (("more than ", True), ("at least ", False)):
        if text.startswith(words):
            value = share(text.removeprefix(words))
            if strict and value == 1:
                raise ValueError(f'{text!r} can never be reached: "at least 1" is all')
            return Bound(share=value, strict=strict)
    raise ValueError(f'{text[:40]!r} is no threshold: write "more than 1/2" or "at least 2/3"')


@lru_cache(maxsize=4096)
def seconds(text: str) -> int:
    """How long a period is. Raises `ValueError`."""
    found = _PERIOD.fullmatch(text)
    if found is None:
        raise ValueError(f'{text[:40]!r} is no period: write "14 days", "36 hours" or "10 minutes"')
    value = int(found[1]) * _SECONDS[found[2]]
    if value > MAX_PERIOD_S:
        raise ValueError(f"{text!r} is too long: at most {MAX_PERIOD_S // 86400} days")
    return value


def period(length_s: int) -> str:
    """In the largest of days, hours, minutes and seconds that gives a whole number: `14 days`."""
    for unit in ("day", "hour", "minute", "second"):
        count, rest = divmod(length_s, _SECONDS[unit])
        if not rest:
            break
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _plain(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("holds a control character or a line break")
    return text


def _in_order(order: tuple[Any, ...]) -> Any:
    """A validator: no value twice, and in the order of `order`, so that one set has one form."""

    def normal(values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) != len(values):
            raise ValueError("names a value twice")
        return tuple(sorted(values, key=order.index))

    return AfterValidator(normal)


def _names(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("names a member twice")
    return tuple(sorted(values))


_Text = Annotated[str, StringConstraints(max_length=64)]
ShareText = Annotated[_Text, AfterValidator(lambda text: text_of(share(text)))]
"""`2/3`; a percentage is taken too and becomes a fraction."""
BoundText = Annotated[_Text, AfterValidator(lambda text: str(bound(text)))]
"""`more than 1/2`, `at least 2/3`."""
PeriodText = Annotated[_Text, AfterValidator(lambda text: period(seconds(text)))]
"""`14 days`."""
Title = Annotated[str, StringConstraints(max_length=200), AfterValidator(_plain)]
Roles = Annotated[tuple[Role, ...], _in_order(ROLES)]
Categories = Annotated[tuple[Category, ...], _in_order(CATEGORIES)]
Names = AfterValidator(_names)
ExactText = Annotated[str, StringConstraints(pattern=r"^(0|1|[1-9][0-9]*/[1-9][0-9]*)$", max_length=4096)]
"""A share in a result, in lowest terms, with as many digits as it takes."""
