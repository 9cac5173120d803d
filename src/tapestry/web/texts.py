"""What pages say, in each language: TOML files below `texts/`, one a topic, all read at the start.

A text is plain; what is put into it comes by name, `{members}`, and is escaped with it. One that depends
on a number is a table of `one` and `other`. Every language has every key: `Texts.load` refuses else.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, Self

from tapestry.errors import SettingsError

FIRST: Final = "en"
"""Language of whoever asks for none that is here."""
_PLACE: Final = re.compile(r"\{([a-z_]+)\}")
_ASKED: Final = re.compile(r"\s*([A-Za-z]{1,8})(?:-[A-Za-z0-9-]{1,20})?\s*(?:;\s*q=([01](?:\.\d{0,3})?))?\s*")
_MAX_HEADER: Final = 500


@dataclass(frozen=True)
class Catalog:
    """All texts of one language.

    Args:
        language: its tag, as in addresses.
        texts: by key, `topic.name`; `.one` and `.other` behind it where it depends on a number.
    """

    language: str
    texts: Mapping[str, str]

    def get(self, key: str, /, **values: Any) -> str:
        """A text with its values filled in. Raises `KeyError` for one that is not there."""
        return _PLACE.sub(lambda found: str(values[found[1]]), self.texts[key])

    def counted(self, key: str, n: float, /, **values: Any) -> str:
        """The form of a text for a number. French counts 0 and 1.5 as one, English does not."""
        one = abs(n) < 2 if self.language == "fr" else n == 1
        return self.get(f"{key}.{'one' if one else 'other'}", **({"n": n} | values))

    def has(self, key: str) -> bool:
        return key in self.texts


@dataclass(frozen=True)
class Texts:
    """Every language."""

    catalogs: Mapping[str, Catalog]

    @classmethod
    def load(cls) -> Self:
        """Those of this package. Raises `SettingsError` where a language lacks a key of another."""
        catalogs = {
            folder.name: Catalog(folder.name, _flat(folder))
            for folder in sorted(
                resources.files(__package__).joinpath("texts").iterdir(), key=lambda f: f.name
            )
            if folder.is_dir() and not folder.name.startswith("_")
        }
        _check(catalogs)
        return cls(catalogs)

    @property
    def languages(self) -> tuple[str, ...]:
        return (FIRST, *sorted(set(self.catalogs) - {FIRST}))

    def best(self, header: str) -> str:
        """The language of an Accept-Language header."""
        ranked = []
        for place, part in enumerate(header[:_MAX_HEADER].split(",")):
            found = _ASKED.fullmatch(part)
            if found and found[1].lower() in self.catalogs and float(found[2] or 1) > 0:
                ranked.append((-float(found[2] or 1), place, found[1].lower()))
        return min(ranked)[2] if ranked else FIRST


def places(text: str) -> set[str]:
    """Names of the values that a text takes."""
    return set(_PLACE.findall(text))


def _flat(folder: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            topic = file.name.removesuffix(".toml")
            _into(found, topic, tomllib.loads(file.read_text("utf-8")))
    return found


def _into(found: dict[str, str], prefix: str, table: dict[str, Any]) -> None:
    for key, value in table.items():
        if isinstance(value, dict):
            _into(found, f"{prefix}.{key}", value)
        elif isinstance(value, str):
            found[f"{prefix}.{key}"] = value
        else:
            raise SettingsError(f"the text {prefix}.{key} is no text")


def _check(catalogs: Mapping[str, Catalog]) -> None:
    first = catalogs[FIRST].texts
    for language, catalog in catalogs.items():
        for key in sorted(set(first) ^ set(catalog.texts)):
            lacking = language if key in first else FIRST
            raise SettingsError(f"the text {key} is not there in {lacking}")
        for key, text in catalog.texts.items():
            if places(text) != places(first[key]):
                raise SettingsError(f"the text {key} takes other values in {language}")
