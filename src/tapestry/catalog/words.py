"""The words of a card: categories, stages, levels, and what its strings may be."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Final, Literal, get_args

from pydantic import AfterValidator, Field, StringConstraints

from tapestry.protocol.canonical import is_name

Category = Literal["open", "unique-open", "controlled", "sovereign", "private"]
"""Of a dataset, from what anybody may have to what leaves a trace in nobody's weights but its owner's."""
Stage = Literal["base", "contributed-cpt", "private-cpt", "sft", "preference", "evaluation"]
"""What a dataset is used for. The first two go into weights that leave the node."""
Level = Literal["public", "consortium", "private"]
"""Who may know a field of a card."""

CATEGORIES: Final[tuple[Category, ...]] = get_args(Category)
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
LEVELS: Final[tuple[Level, ...]] = get_args(Level)

COUNTRIES: Final = frozenset(
    re.findall(
        "..",
        "ADAEAFAGAIALAMAOAQARASATAUAWAXAZBABBBDBEBFBGBHBIBJBLBMBNBOBQBRBSBTBVBWBYBZCACCCDCFCGCHCICKCLCMCN"
        "COCRCUCVCWCXCYCZDEDJDKDMDODZECEEEGEHERESETFIFJFKFMFOFRGAGBGDGEGFGGGHGIGLGMGNGPGQGRGSGTGUGWGYHKHM"
        "HNHRHTHUIDIEILIMINIOIQIRISITJEJMJOJPKEKGKHKIKMKNKPKRKWKYKZLALBLCLILKLRLSLTLULVLYMAMCMDMEMFMGMHMK"
        "MLMMMNMOMPMQMRMSMTMUMVMWMXMYMZNANCNENFNGNINLNONPNRNUNZOMPAPEPFPGPHPKPLPMPNPRPSPTPWPYQARERORSRURW"
        "SASBSCSDSESGSHSISJSKSLSMSNSOSRSSSTSVSXSYSZTCTDTFTGTHTJTKTLTMTNTOTRTTTVTWTZUAUGUMUSUYUZVAVCVEVGVI"
        "VNVUWFWSYEYTZAZMZW",
    )
)
"""ISO 3166-1 alpha-2."""

LANGUAGE_PATTERN: Final = r"^[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?(-[a-z0-9]{5,8})*$"
"""BCP 47 in its usual case: language, script, region, variants."""
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MAX_COUNT: Final = (1 << 53) - 1


def _plain(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("holds a control character or a line break")
    return text


def _day(text: str) -> str:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError("is not a date like 2027-12-31")
    try:
        datetime.date.fromisoformat(text)
    except ValueError as e:
        raise ValueError("is not a day of the calendar") from e
    return text


def _country(code: str) -> str:
    if code not in COUNTRIES:
        raise ValueError(f"{code[:8]!r} is no country code of ISO 3166-1, such as CH")
    return code


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("names a value twice")
    return values


def _named(text: str) -> str:
    if not is_name(text):
        raise ValueError("is no name: a-z, 0-9, '.', '_' and '-', at most 64, ending with a letter or digit")
    return text


Owner = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_plain)]
Prose = Annotated[str, StringConstraints(max_length=2000), AfterValidator(_plain)]
Basis = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_plain)]
Label = Annotated[str, AfterValidator(_named)]
Licence = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9 .+()/:-]+$")]
"""As written; whether it is one is `licences.parse`'s to say."""
Language = Annotated[str, StringConstraints(pattern=LANGUAGE_PATTERN, max_length=64)]
Languages = Annotated[tuple[Language, ...], Field(min_length=1, max_length=64), AfterValidator(_distinct)]
Country = Annotated[str, AfterValidator(_country)]
Countries = Annotated[tuple[Country, ...], Field(min_length=1, max_length=64), AfterValidator(_distinct)]
Stages = Annotated[tuple[Stage, ...], Field(min_length=1, max_length=len(STAGES)), AfterValidator(_distinct)]
Day = Annotated[str, AfterValidator(_day)]
"""YYYY-MM-DD."""
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
