"""Numbers, sizes and times as each language writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from tapestry.protocol.clock import parse_time
from tapestry.web.texts import Catalog

_NARROW: Final = "\u202f"
"""Narrow space that no line breaks at: what French puts between thousands."""
_SPACE: Final = "\u00a0"
DASH: Final = "–"


class Numbers:
    """Of one language. None, everywhere, is a dash."""

    def __init__(self, text: Catalog) -> None:
        self._text = text
        self._french = text.language == "fr"

    def whole(self, value: float | None) -> str:
        return DASH if value is None else self._local(f"{value:,.0f}")

    def fixed(self, value: float | None, digits: int = 2) -> str:
        return DASH if value is None else self._local(f"{value:,.{digits}f}")

    def signed(self, value: float | None, digits: int = 3) -> str:
        return DASH if value is None else self._local(f"{value:+,.{digits}f}").replace("-", "−")

    def percent(self, value: float | None, digits: int = 0) -> str:
        """Of a share: 0.5 is 50 %."""
        if value is None:
            return DASH
        return self._local(f"{100 * value:,.{digits}f}") + ((_NARROW + "%") if self._french else "%")

    def short(self, value: float | None) -> str:
        """1.2 k, 3.4 M, 5.6 billion is 5.6 G."""
        if value is None:
            return DASH
        for unit in ("", "k", "M", "G", "T"):
            if abs(value) < 999.5 or unit == "T":
                digits = 0 if not unit or abs(value) >= 99.95 else 1
                return self._local(f"{value:,.{digits}f}") + (_SPACE + unit if unit else "")
            value /= 1000
        raise AssertionError

    def bytes(self, value: float | None) -> str:
        """Decimal units."""
        if value is None:
            return DASH
        units = ("o", "ko", "Mo", "Go", "To", "Po") if self._french else ("B", "kB", "MB", "GB", "TB", "PB")
        for unit in units:
            if abs(value) < 999.5 or unit == units[-1]:
                digits = 0 if unit == units[0] or abs(value) >= 99.95 else 1
                return self._local(f"{value:,.{digits}f}") + _SPACE + unit
            value /= 1000
        raise AssertionError

    def times(self, value: float | None) -> str:
        """How many times as much: 340×."""
        if value is None:
            return DASH
        return self._local(f"{value:,.0f}" if value >= 99.5 else f"{value:,.1f}") + _NARROW + "×"

    def duration(self, seconds: float | None) -> str:
        """The two largest units: 3 h 20 min."""
        if seconds is None:
            return DASH
        whole = max(0, round(seconds))
        if whole < 60:
            return f"{whole}{_SPACE}s"
        days, rest = divmod(whole, 86400)
        hours, rest = divmod(rest, 3600)
        minutes, left = divmod(rest, 60)
        day = "j" if self._french else "d"
        if days:
            return f"{days}{_SPACE}{day} {hours}{_SPACE}h"
        if hours:
            return f"{hours}{_SPACE}h {minutes:02}{_SPACE}min"
        return f"{minutes}{_SPACE}min {left:02}{_SPACE}s"

    def time(self, value: str | None) -> str:
        """Of a message: 22 Nov 2026, 12:31 UTC."""
        if not value:
            return DASH
        at = parse_time(value)
        return f"{self._day(at)}, {at:%H:%M} UTC"

    def day(self, value: str | None) -> str:
        if not value:
            return DASH
        return self._day(parse_time(value if "T" in value else value + "T00:00:00.000Z"))

    def clock(self, value: str | None) -> str:
        """12:31:05 UTC."""
        return DASH if not value else f"{parse_time(value):%H:%M:%S} UTC"

    def _day(self, at: datetime) -> str:
        at = at.astimezone(UTC)
        return f"{at.day} {self._text.get(f'common.month.m{at.month}')} {at.year}"

    def _local(self, text: str) -> str:
        text = text.replace("-", "−")
        return text.replace(",", _NARROW).replace(".", ",") if self._french else text
