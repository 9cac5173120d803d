"""Cards as Croissant 1.1 JSON-LD, and back. Format: docs/formats/cards.md.

What a file holds beyond a card's fields is kept: writing lays the fields over the file that was read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Self
from urllib.parse import quote

from tapestry.catalog import card as cards
from tapestry.catalog import document
from tapestry.catalog.card import Card, File
from tapestry.catalog.document import Json
from tapestry.catalog.lineage import Lineage
from tapestry.errors import CardError, FormatError
from tapestry.protocol import canonical

VERSIONS: Final = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
_OF_CROISSANT: Final = re.findall(
    r"\w+",
    "annotation arrayShape citeAs column containedIn equivalentProperty excludes extract field "
    "fileProperty fileObject fileSet format includes isArray isLiveDataset jsonPath key md5 "
    "parentField recordSet references path regex readLines repeated replace samplingRate sdVersion "
    "separator source subField transform unArchive value",
)
CONTEXT: Final[Json] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "odrl": "http://www.w3.org/ns/odrl/2/",
    "tapestry": "urn:tapestry:terms:",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{word: f"cr:{word}" for word in _OF_CROISSANT},
}
_PLAIN: Final = frozenset(
    ("name", "description", "url", "creator", "license", "datePublished", "version", "inLanguage", "keywords")
) | frozenset(("usageInfo", "distribution", "contentUrl", "contentSize", "encodingFormat", "sha256"))
"""Words of schema.org that ours are, which no context may give another meaning."""
SPDX: Final = "https://spdx.org/licenses/"
_SIMPLE: Final = re.compile(r"[A-Za-z0-9.+-]+")
LINEAGE: Final = "tapestry:lineage"
PROV: Final = {"prov": "http://www.w3.org/ns/prov#"}
"""In the context of cards that have a lineage."""
_WHOLE: Final = {"tapestry:visibility"}
_MAY_LACK: Final = {"tapestry:consentBasis", "tapestry:retainUntil", LINEAGE}
"""Fields of ours that go where the card no longer has them."""


@dataclass(frozen=True, kw_only=True)
class CardFile:
    """A card with the file it stood in.

    Args:
        card: the fields.
        kept: all of the file as it was read; empty for a new card.
    """

    card: Card
    kept: Json = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """Parse foreign bytes. Raises `CardError` naming file and field."""
        kept = document.read(data, where)
        return cls(card=_Reader(kept, where).card(), kept=kept)

    def document(self) -> Json:
        """The JSON-LD."""
        return dict(overlay(self.kept, render(self.card)))

    def to_bytes(self) -> bytes:
        """As a person reads it."""
        return (json.dumps(self.document(), ensure_ascii=False, indent=2) + "\n").encode()

    @cached_property
    def digest(self) -> str:
        """Of the canonical JSON of all of it."""
        return canonical.sha256(canonical.encode(self.document()))


def render(card: Card) -> Json:
    """The fields of a card as JSON-LD."""
    content, lineage = card.content, card.lineage
    return {
        "@context": CONTEXT if lineage is None else CONTEXT | PROV,
        "@type": "sc:Dataset",
        "conformsTo": VERSIONS,
        "name": card.name,
        "description": card.description,
        "url": f"urn:tapestry:dataset:{card.name}",
        "creator": {"@type": "sc:Organization", "name": card.owner},
        "license": SPDX + card.licence if _on_spdx(card.licence) else card.licence,
        "datePublished": card.made,
        "version": f"{card.revision}.0.0",
        "inLanguage": list(card.languages),
        "keywords": [card.domain],
        "rai:dataCollection": card.provenance,
        "usageInfo": _rights(card),
        "tapestry:content": {
            "documents": content.documents,
            "bytes": content.bytes,
            "tokens": content.tokens,
            "tokenizer": content.tokenizer,
            "root": content.root,
        },
        "tapestry:visibility": dict(card.visibility),
        "tapestry:folder": card.folder,
        "distribution": [_file(file) for file in card.files],
        **({LINEAGE: lineage.render()} if lineage is not None else {}),
    }


def _on_spdx(licence: str) -> bool:
    return _SIMPLE.fullmatch(licence) is not None and not licence.startswith("LicenseRef-")


def _rights(card: Card) -> Json:
    found: Json = {
        "@type": ["CreativeWork", "odrl:Offer"],
        "name": f"Rights of {card.name}",
        "tapestry:category": card.category,
        "odrl:permission": [
            {
                "@type": "odrl:Permission",
                "odrl:action": {"@id": f"tapestry:{stage}"},
                "odrl:constraint": _constraints(card),
            }
            for stage in card.stages
        ],
    }
    if card.consent_basis is not None:
        found["tapestry:consentBasis"] = card.consent_basis
    if card.retention is not None:
        found["tapestry:retainUntil"] = card.retention
    return found


def _constraints(card: Card) -> list[Json]:
    found = [_constraint("odrl:spatial", "odrl:isAnyOf", list(card.residency))]
    if card.consent_until is not None:
        found.append(_constraint("odrl:dateTime", "odrl:lteq", card.consent_until))
    return found


def _constraint(left: str, operator: str, right: Any) -> Json:
    return {
        "@type": "odrl:Constraint",
        "odrl:leftOperand": {"@id": left},
        "odrl:operator": {"@id": operator},
        "odrl:rightOperand": right,
    }


def _file(file: File) -> Json:
    return {
        "@type": "cr:FileObject",
        "@id": quote(file.path),
        "name": file.path,
        "contentUrl": quote(file.path),
        "contentSize": f"{file.bytes} B",
        "encodingFormat": _encoding(file.path),
        "sha256": file.sha256,
        "tapestry:split": file.split,
        "tapestry:documents": file.documents,
    }


def _encoding(path: str) -> str:
    ending = path.lower().rpartition(".")[2]
    of = {"txt": "text/plain", "jsonl": "application/jsonlines", "parquet": "application/x-parquet"}
    packed = {"gz": "application/gzip", "bz2": "application/x-bzip2", "xz": "application/x-xz"}
    return of.get(ending) or packed.get(ending) or "application/octet-stream"


class _Reader:
    """Takes a card's fields out of a document, and knows what to call what is wrong with it."""

    def __init__(self, document: Json, where: str) -> None:
        self._document = document
        self._where = where

    def card(self) -> Card:
        found = self._document
        self._is_croissant(found)
        content = self._object(found, "tapestry:content", "content")
        rights = self._object(found, "usageInfo", "rights")
        name = self._text(found, "name")
        stages, residency, until = self._permissions(rights)
        values: Json = {
            "name": name,
            "description": self._text(found, "description"),
            "owner": self._text(self._object(found, "creator", "owner"), "name", "owner"),
            "languages": self._list(found, "inLanguage", "languages"),
            "domain": self._one(self._list(found, "keywords", "domain"), "domain"),
            "licence": self._text(found, "license", "licence").removeprefix(SPDX),
            "made": self._text(found, "datePublished", "made"),
            "revision": self._revision(self._text(found, "version", "revision")),
            "provenance": self._text(found, "rai:dataCollection", "provenance"),
            "consent_basis": rights.get("tapestry:consentBasis"),
            "consent_until": until,
            "residency": residency,
            "category": self._text(rights, "tapestry:category", "category"),
            "stages": stages,
            "retention": rights.get("tapestry:retainUntil"),
            "content": {key: content.get(key) for key in cards.Content.model_fields},
            "files": [self._file(value) for value in self._list(found, "distribution", "files")],
            "folder": self._text(found, "tapestry:folder", "folder"),
            "visibility": self._object(found, "tapestry:visibility", "visibility"),
        }
        if LINEAGE in found:
            values["lineage"] = self._lineage(found)
        card = cards.make(values, self._where)
        self._says_the_same(card)
        return card

    def _fail(self, field: str, what: str) -> CardError:
        return CardError(f"{self._where}: {field}: {what}", hint="see docs/formats/cards.md")

    def _lineage(self, found: Json) -> Json:
        if self._object(found, "@context", "@context").get("prov") != PROV["prov"]:
            raise self._fail("@context", f"prov is not {json.dumps(PROV['prov'])}")
        try:
            return Lineage.values(self._object(found, LINEAGE, "lineage"))
        except FormatError as e:
            raise self._fail("lineage", e.message) from e

    def _is_croissant(self, found: Json) -> None:
        context = self._object(found, "@context", "@context")
        for key, value in CONTEXT.items():
            if context.get(key) != value:
                raise self._fail("@context", f"{key} is not {json.dumps(value)}")
        for key in set(context) - set(CONTEXT):
            value = context[key]
            if not isinstance(value, str) or "odrl" in value.lower() or key in _PLAIN or key.startswith("@"):
                raise self._fail("@context", f"{key[:40]!r} may change what the rest means")
        if found.get("@type") != "sc:Dataset":
            raise self._fail("@type", "is not sc:Dataset")
        if found.get("conformsTo") != VERSIONS:
            raise self._fail("conformsTo", f"is not {json.dumps(VERSIONS)}")

    def _says_the_same(self, card: Card) -> None:
        """Whoever reads the file in another way must see the same: what is stated twice has to agree."""
        ours = render(card)
        self._only_ours(self._document["usageInfo"], ours["usageInfo"], "rights")
        for key, value in ours.items():
            if key not in self._document:
                raise self._fail(key, "is missing")
            if overlay(self._document[key], value) != self._document[key]:
                raise self._fail(key, "is not written as docs/formats/cards.md has it")

    def _only_ours(self, found: Any, ours: Any, field: str) -> None:
        """Refuses rules that are not understood, such as a prohibition: they may take away what a permission
        gives."""
        if isinstance(found, list):
            by_name = {_name(each): each for each in ours} if isinstance(ours, list) else {}
            for each in found:
                self._only_ours(each, by_name.get(_name(each), {}), field)
        elif isinstance(found, dict):
            known = ours if isinstance(ours, dict) else {}
            for key, value in found.items():
                if key not in known and ("odrl" in key.lower() or key.startswith("@")):
                    raise self._fail(field, f"{key[:60]!r} is not understood, and may forbid something")
                self._only_ours(value, known.get(key), field)

    def _object(self, found: Json, key: str, field: str) -> Json:
        value = found.get(key)
        if not isinstance(value, dict):
            raise self._fail(field, f"{key} is missing" if value is None else f"{key} is no object")
        return value

    def _text(self, found: Json, key: str, field: str | None = None) -> str:
        value = found.get(key)
        if not isinstance(value, str):
            raise self._fail(field or key, f"{key} is missing" if value is None else f"{key} is no text")
        return value

    def _list(self, found: Json, key: str, field: str) -> list[Any]:
        value = found.get(key)
        if not isinstance(value, list):
            raise self._fail(field, f"{key} is missing" if value is None else f"{key} is no list")
        return value

    def _one(self, values: list[Any], field: str) -> Any:
        if len(values) != 1:
            raise self._fail(field, "is not one value")
        return values[0]

    def _revision(self, text: str) -> int:
        match = re.fullmatch(r"([1-9][0-9]{0,9})\.0\.0", text)
        if match is None:
            raise self._fail("revision", "version is not like 1.0.0")
        return int(match[1])

    def _permissions(self, rights: Json) -> tuple[list[str], Any, Any]:
        """Stages, residency and end of consent, which all permissions state alike."""
        stages, terms = [], []
        for permission in self._list(rights, "odrl:permission", "stages"):
            if not isinstance(permission, dict):
                raise self._fail("stages", "odrl:permission holds what is no object")
            action = self._object(permission, "odrl:action", "stages").get("@id")
            if not isinstance(action, str) or not action.startswith("tapestry:"):
                raise self._fail("stages", "odrl:action is no stage")
            stages.append(action.removeprefix("tapestry:"))
            terms.append(self._terms(self._list(permission, "odrl:constraint", "residency")))
        if not terms:
            raise self._fail("stages", "usageInfo permits nothing")
        if any(each != terms[0] for each in terms):
            raise self._fail("residency", "the permissions do not all have the same constraints")
        return stages, *terms[0]

    def _terms(self, constraints: list[Any]) -> tuple[Any, Any]:
        found: Json = {}
        for each in constraints:
            left = each.get("odrl:leftOperand") if isinstance(each, dict) else None
            key = left.get("@id") if isinstance(left, dict) else None
            if key not in ("odrl:spatial", "odrl:dateTime") or key in found:
                raise self._fail("residency", "usageInfo has a constraint that is not understood")
            found[key] = each.get("odrl:rightOperand")
        return found.get("odrl:spatial"), found.get("odrl:dateTime")

    def _file(self, value: Any) -> Json:
        if not isinstance(value, dict) or value.get("@type") != "cr:FileObject":
            raise self._fail("files", "distribution holds what is no cr:FileObject")
        size = re.fullmatch(r"(0|[1-9][0-9]{0,15}) B", self._text(value, "contentSize", "files"))
        if size is None:
            raise self._fail("files", "contentSize is not like 123 B")
        return {
            "path": self._text(value, "name", "files"),
            "split": self._text(value, "tapestry:split", "files"),
            "bytes": int(size[1]),
            "documents": value.get("tapestry:documents"),
            "sha256": self._text(value, "sha256", "files"),
        }


def overlay(kept: Any, ours: Any) -> Any:
    """`ours` where both have a value, and what only `kept` has; in lists of objects, by what names them."""
    if isinstance(kept, dict) and isinstance(ours, dict):
        found = {
            key: (ours[key] if key in _WHOLE else overlay(value, ours[key])) if key in ours else value
            for key, value in kept.items()
            if key in ours or key not in _MAY_LACK
        }
        return found | {key: value for key, value in ours.items() if key not in kept}
    if isinstance(kept, list) and isinstance(ours, list):
        by_name = {_name(each): each for each in kept}
        return [each if _name(each) is None else overlay(by_name.get(_name(each)), each) for each in ours]
    return ours


def _name(value: Any) -> str | None:
    """Of an object in a list."""
    if not isinstance(value, dict):
        return None
    for key in ("odrl:action", "odrl:leftOperand"):
        if isinstance(inner := value.get(key), dict):
            value = inner
            break
    name = value.get("@id")
    return name if isinstance(name, str) else None
