"""What a licence lets weights be: SPDX expressions, and four kinds of them.

A coarse reading, meant to refuse in doubt; it is no legal advice. Whether share-alike reaches trained weights
is not settled anywhere; here it does not keep text out of a base.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final, Literal

Kind = Literal["open", "restricted", "own", "other"]
"""`open`: use, change and pass on, for any purpose. `restricted`: not for commerce, or no derivatives. `own`:
terms that SPDX does not list. `other`: listed, and not known here to be open."""

_WORST: Final[tuple[Kind, ...]] = ("open", "own", "restricted", "other")
_OWN: Final = re.compile(r"LicenseRef-[A-Za-z0-9.-]{1,100}")
_RESTRICTED: Final = re.compile(r"-(NC|ND)(-|$)")
_OPEN: Final = re.compile(
    r"0BSD|AFL-3\.0|AGPL-3\.0.*|Apache-[12]\..*|Artistic-2\.0|BlueOak-1\.0\.0|BSD-[123]-Clause|BSL-1\.0|CC0-1\.0"
    r"|CC-BY-[1-4]\.[05].*|CC-BY-SA-[1-4]\.[05].*|CC-PDDC|CC-PDM-1\.0|CDLA-.*|DL-DE-.*|EUPL-1\.[12]|etalab-2\.0"
    r"|GFDL-1\.[123].*|GPL-[123]\..*|ISC|LGPL-[23]\..*|MIT(-0)?|MPL-2\.0|NLOD-.*|ODbL-1\.0|ODC-By-1\.0|OGL-UK-.*"
    r"|OGL-Canada-2\.0|PDDL-1\.0|PSF-2\.0|Python-2\.0.*|Unlicense|UPL-1\.0|Unicode-.*|W3C.*|WTFPL|Zlib|ZPL-2\.[01]"
)


@dataclass(frozen=True)
class Parsed:
    """An SPDX expression.

    Args:
        text: as SPDX writes it.
        kind: with AND the worst of its parts, with OR the best.
    """

    text: str
    kind: Kind


@lru_cache(1024)
def parse(text: str) -> Parsed:
    """Raises `ValueError` where it is none, or names a licence that is not on the SPDX list."""
    own = _OWN.findall(text)
    plain = text
    for number, name in enumerate(sorted(set(own), key=len, reverse=True)):
        plain = plain.replace(name, f"tapestryown{number}")
    names = dict(enumerate(sorted(set(own), key=len, reverse=True)))
    from license_expression import ExpressionError, LicenseSymbol

    licensing = _licensing()
    try:
        found = licensing.parse(plain, strict=True)
    except ExpressionError as e:
        raise ValueError(f"is no SPDX licence expression: {str(e)[:200]}") from e
    except (AttributeError, IndexError, TypeError, RecursionError) as e:  # of its parser, for odd input
        raise ValueError("is no SPDX licence expression") from e
    if found is None:
        raise ValueError("is empty")
    ours = {f"tapestryown{number}": name for number, name in names.items()}
    for symbol in licensing.license_symbols(found, unique=True, decompose=True):
        if not isinstance(symbol, LicenseSymbol) or (
            symbol.key not in ours and (symbol.key not in licensing.known_symbols or not _on_list(symbol.key))
        ):
            raise ValueError(f"{symbol.key[:60]!r} is not on the SPDX list")
    rendered = str(found.render("{symbol.key}"))
    for stand_in, name in ours.items():
        rendered = re.sub(rf"\b{stand_in}\b", name, rendered)
    return Parsed(rendered, _kind(found, ours))


def _on_list(key: str) -> bool:
    """The library also knows names of its makers, which are not SPDX's."""
    return not key.startswith("LicenseRef-")


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def _kind(found: Any, ours: dict[str, str]) -> Kind:
    operator = getattr(found, "operator", "").strip()
    if operator in ("AND", "OR"):
        kinds = [_kind(each, ours) for each in found.args]
        return (max if operator == "AND" else min)(kinds, key=_WORST.index)
    licence = getattr(found, "license_symbol", found)
    key = str(licence.key)
    if key in ours:
        return "own"
    if _RESTRICTED.search(key):
        return "restricted"
    return "open" if _OPEN.fullmatch(key) else "other"
