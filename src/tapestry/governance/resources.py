"""What members bring, and in which units: an amount is a whole number of a smallest unit, with one text.

compute    accelerator-hours
data.LANG  bytes of text in a language (`data.fr`, `data.de-CH`), as the cards of datasets count them
storage    bytes
bandwidth  bits a second
people     full-time
funds      any one currency, by its three capital letters
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Final

from pydantic import AfterValidator, StringConstraints

MAX_BASE: Final = 10**18
"""Of smallest units; an exabyte."""
_DECIMAL: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_RATES: Final = ("kbit/s", "Mbit/s", "Gbit/s", "Tbit/s")
UNITS: Final[dict[str, dict[str, int]]] = {
    "time": {"accelerator-hours": 1},
    "bytes": {unit: 1000**power for power, unit in enumerate(_DECIMAL)},
    "rate": {unit: 1000**power for power, unit in enumerate(_RATES)},
    "people": {"% of full-time": 1, "full-time": 100},
}
"""By what is counted: each unit in smallest ones, the smallest first."""
_OF: Final = {"compute": "time", "storage": "bytes", "bandwidth": "rate", "people": "people"}
_SAID: Final = {
    "time": "2000 accelerator-hours",
    "bytes": "3 GB",
    "rate": "10 Gbit/s",
    "people": "3 full-time",
    "money": "100000 EUR",
}
RESOURCE: Final = (
    r"^(compute|storage|bandwidth|people|funds|"
    r"data\.[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?(-[a-z0-9]{5,8})*)$"
)
RESOURCES: Final = "compute, data.LANG (such as data.fr), storage, bandwidth, people, funds"
_AMOUNT: Final = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,6}))? ([A-Za-z% /-]{1,24})")
_CURRENCY: Final = re.compile("[A-Z]{3}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """So much of something.

    Args:
        of: `time`, `bytes`, `rate`, `people`, or a currency: amounts of one can be added and compared.
        base: in its smallest unit.
    """

    of: str
    base: int

    def __str__(self) -> str:
        """In the largest unit in which it is whole; nothing in the smallest."""
        units = UNITS.get(self.of, {self.of: 1})
        unit, size = next(iter(units.items()))
        for name, each in units.items():
            if self.base and self.base % each == 0:
                unit, size = name, each
        return f"{self.base // size} {unit}"


@lru_cache(maxsize=4096)
def amount(text: str) -> Amount:
    """What a text names. Raises `ValueError` with the way out."""
    found = _AMOUNT.fullmatch(text)
    named = _unit(found[3]) if found is not None else None
    if found is None or named is None:
        raise ValueError(f"{text[:40]!r} is in no unit that is known: {_examples()}")
    of, size = named
    fraction = found[2] or ""
    scaled = (int(found[1]) * 10 ** len(fraction) + int(fraction or 0)) * size
    base, rest = divmod(scaled, 10 ** len(fraction))
    if rest:
        smallest = next(iter(UNITS.get(of, {of: 1})))
        raise ValueError(f"{text!r} is no whole number of {smallest}")
    if base > MAX_BASE:
        raise ValueError(f"{text!r} is more than can be counted: at most {Amount(of=of, base=MAX_BASE)}")
    return Amount(of=of, base=base)


def _unit(name: str) -> tuple[str, int] | None:
    """What it counts, and its size."""
    name = "accelerator-hours" if name == "accelerator-hour" else name
    for of, units in UNITS.items():
        if name in units:
            return of, units[name]
    return (name, 1) if _CURRENCY.fullmatch(name) else None


def is_resource(text: str) -> bool:
    return re.fullmatch(RESOURCE, text) is not None


def counted_in(resource: str) -> str:
    """What a resource is an amount of; `money` for any currency."""
    if resource == "funds":
        return "money"
    return "bytes" if resource.startswith("data.") else _OF[resource]


def fits(resource: str, given: Amount) -> bool:
    """Whether it is an amount of that resource."""
    of = counted_in(resource)
    return given.of not in UNITS if of == "money" else given.of == of


def example(resource: str) -> str:
    """How an amount of it is written, in words for a hint."""
    units = list(UNITS.get(counted_in(resource), {"a currency, such as EUR": 1}))
    return f'write "{_SAID[counted_in(resource)]}" (units of {resource}: {", ".join(units)})'


def _examples() -> str:
    said = [f'"{each}"' for each in _SAID.values()]
    return f"write {', '.join(said[:-1])} or {said[-1]}"


AmountText = Annotated[str, StringConstraints(max_length=64), AfterValidator(lambda text: str(amount(text)))]
"""`2000 accelerator-hours`, `1500 GB`."""
Resource = Annotated[str, StringConstraints(pattern=RESOURCE, max_length=64)]
