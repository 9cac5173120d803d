"""Cards as files: nothing is lost, nothing is misread, what is wrong is named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.catalog import document
from tapestry.catalog.card import Card, make
from tapestry.catalog.croissant import CardFile, render
from tapestry.catalog.words import CATEGORIES, STAGES
from tapestry.errors import CardError
from tests.catalog.made import card, values

Json = dict[str, Any]
WHERE = "letters.json"
PLAIN = st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=30)
DAYS = st.dates().map(lambda day: day.isoformat())


@st.composite
def cards(draw: st.DrawFn) -> Card:
    return card(
        description=draw(PLAIN),
        owner=draw(PLAIN.filter(bool)),
        languages=draw(st.lists(st.sampled_from(["de", "pt-BR", "zh-Hant"]), min_size=1, unique=True)),
        licence=draw(st.sampled_from(["MIT", "CC-BY-4.0", "LicenseRef-a.b-1", "MIT OR LicenseRef-x"])),
        revision=draw(st.integers(1, 1 << 31)),
        provenance=draw(PLAIN),
        consent_basis=draw(st.none() | PLAIN.filter(bool)),
        consent_until=draw(st.none() | DAYS),
        residency=draw(st.lists(st.sampled_from(["CH", "LI", "NO"]), min_size=1, unique=True)),
        category=draw(st.sampled_from(CATEGORIES)),
        stages=draw(st.lists(st.sampled_from(STAGES), min_size=1, unique=True)),
        retention=draw(st.none() | DAYS),
        folder=draw(PLAIN),
        visibility=draw(st.dictionaries(st.sampled_from(["root", "owner"]), st.just("public"))),
    )


# A key whose last part means rights is read as rights, whoever's it is.
FOREIGN = PLAIN.filter(lambda text: "odrl" not in text.casefold()).map(lambda text: f"x:{text}")
UNKNOWN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53) + 1, (1 << 53) - 1) | PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FOREIGN, inner, max_size=3),
    max_leaves=6,
)
ADDED = st.dictionaries(FOREIGN, UNKNOWN, max_size=3)


def objects(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where an unknown field may stand: in every object, but in those whose keys are closed."""
    if path[-1:] in (("tapestry:visibility",), ("@context",)):
        return []
    if isinstance(value, dict):
        found = [path]
        for key, each in value.items():
            found += objects(each, (*path, key))
        return found
    if isinstance(value, list):
        return [at for n, each in enumerate(value) for at in objects(each, (*path, n))]
    return []


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


@given(cards())
def test_a_card_comes_back_as_it_was_written(made: Card) -> None:
    written = CardFile(card=made)
    read = CardFile.from_bytes(written.to_bytes(), WHERE)
    assert read.card == made
    assert read.to_bytes() == written.to_bytes()
    assert read.digest == written.digest


@given(cards(), st.data())
def test_unknown_fields_survive_wherever_they_stand(made: Card, data: st.DataObject) -> None:
    found = copy.deepcopy(render(made))
    for path in data.draw(st.lists(st.sampled_from(objects(found)), max_size=4)):
        at(found, path).update(data.draw(ADDED))
    read = CardFile.from_bytes(json.dumps(found).encode(), WHERE)
    assert read.card == made
    assert json.loads(read.to_bytes()) == found
    assert CardFile.from_bytes(read.to_bytes(), WHERE) == read


def test_unknown_fields_stay_when_the_card_changes_and_old_ones_of_ours_go() -> None:
    found = copy.deepcopy(render(card()))
    found["citeAs"] = "Acme 2026"
    found["distribution"][0]["x:note"] = "kept"
    read = CardFile.from_bytes(json.dumps(found).encode(), WHERE)
    changed = CardFile(
        card=card(consent_basis=None, retention=None, consent_until=None, visibility={}), kept=read.kept
    )
    again = CardFile.from_bytes(changed.to_bytes(), WHERE)
    assert again.card == changed.card
    assert again.kept["citeAs"] == "Acme 2026"
    assert again.kept["distribution"][0]["x:note"] == "kept"
    assert "tapestry:consentBasis" not in again.kept["usageInfo"]


def test_layout_does_not_matter_to_the_digest() -> None:
    made = CardFile(card=card())
    other = json.dumps(dict(reversed(made.document().items())), indent=None).encode()
    assert CardFile.from_bytes(other, WHERE).digest == made.digest


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"licence": "Foo-1.0"}, "licence"),
        ({"residency": ["XX"]}, "residency"),
        ({"residency": []}, "residency"),
        ({"category": "secret"}, "category"),
        ({"stages": []}, "stages"),
        ({"stages": ["train"]}, "stages"),
        ({"stages": ["base", "base"]}, "stages"),
        ({"languages": ["German"]}, "languages"),
        ({"consent_until": "2027-02-30"}, "consent_until"),
        ({"consent_until": "tomorrow"}, "consent_until"),
        ({"retention": "2027"}, "retention"),
        ({"owner": ""}, "owner"),
        ({"owner": "a\nb"}, "owner"),
        ({"name": "Letters!"}, "name"),
        ({"description": "x" * 2001}, "description"),
        ({"visibility": {"colour": "public"}}, "visibility"),
        ({"visibility": {"root": "all"}}, "visibility"),
        ({"files": []}, "documents"),
    ],
)
def test_a_value_that_cannot_be_names_its_field(changed: Json, field: str) -> None:
    with pytest.raises(CardError, match=field) as caught:
        card(**changed)
    assert caught.value.hint


MAY_LACK = {"domain", "provenance", "consent_basis", "consent_until", "retention", "folder", "visibility"}


@pytest.mark.parametrize("field", sorted(values()))
def test_a_mandatory_field_that_is_missed_is_named(field: str) -> None:
    given = values()
    del given[field]
    if field in MAY_LACK:
        make(given, WHERE)
        return
    with pytest.raises(CardError, match=field):
        make(given, WHERE)


def drop(*path: Any) -> Callable[[Json], None]:
    return lambda found: at(found, path[:-1]).pop(path[-1])


def put(value: Any, *path: Any) -> Callable[[Json], None]:
    def change(found: Json) -> None:
        at(found, path[:-1])[path[-1]] = value

    return change


P0 = ("usageInfo", "odrl:permission", 0)
BROKEN: dict[str, tuple[Callable[[Json], None], str]] = {
    "no address": (drop("url"), "url: is missing"),
    "no rights": (drop("usageInfo"), "rights: usageInfo is missing"),
    "no licence": (drop("license"), "licence: license is missing"),
    "no owner": (drop("creator", "name"), "owner: name is missing"),
    "no content": (drop("tapestry:content"), "content: tapestry:content is missing"),
    "no root": (drop("tapestry:content", "root"), "content.root"),
    "another tokenizer": (put("gpt", "tapestry:content", "tokenizer"), "content.tokenizer"),
    "another context": (put({"@vocab": "http://x/"}, "@context"), "@context"),
    "a word redefined": (put("cr:license", "@context", "license"), "may change what"),
    "an alias of odrl": (put("http://www.w3.org/ns/odrl/2/", "@context", "o"), "may change what"),
    "another type": (put("sc:Book", "@type"), "@type"),
    "croissant 1.0": (put("http://mlcommons.org/croissant/1.0", "conformsTo"), "conformsTo"),
    "nothing permitted": (put([], "usageInfo", "odrl:permission"), "permits nothing"),
    "an odd action": (put({"@id": "odrl:use"}, *P0, "odrl:action"), "is no stage"),
    "a prohibition": (put([{}], "usageInfo", "odrl:prohibition"), "may forbid something"),
    "a prohibition by its name": (
        put([{}], "usageInfo", "http://www.w3.org/ns/odrl/2/prohibition"),
        "may forbid something",
    ),
    "a duty": (put([{}], *P0, "odrl:duty"), "may forbid something"),
    "another operator": (put({"@id": "odrl:neq"}, *P0, "odrl:constraint", 0, "odrl:operator"), "usageInfo"),
    "a constraint more": (
        lambda found: at(found, P0)["odrl:constraint"].append({"odrl:leftOperand": {"@id": "odrl:count"}}),
        "not understood",
    ),
    "a constraint less": (lambda found: at(found, P0)["odrl:constraint"].pop(), "same constraints"),
    "two residencies": (put(["DE"], *P0, "odrl:constraint", 0, "odrl:rightOperand"), "same constraints"),
    "an address that is another's": (put("urn:x", "url"), "url: is not written"),
    "a file with another address": (put("other", "distribution", 0, "contentUrl"), "distribution"),
    "a file above the folder": (put("../secret.txt", "distribution", 0, "name"), "leads out"),
    "an absolute file": (put("/etc/passwd", "distribution", 0, "name"), "leads out"),
    "a file twice": (lambda found: found["distribution"].append(found["distribution"][0]), "twice"),
    "an archive": (put("cr:FileSet", "distribution", 0, "@type"), "cr:FileObject"),
    "counts that do not add up": (put(7, "tapestry:content", "documents"), "sum"),
    "version": (put("1.2.3", "version"), "revision"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_says_something_else_is_refused(name: str) -> None:
    change, said = BROKEN[name]
    found = copy.deepcopy(render(card()))
    CardFile.from_bytes(json.dumps(found).encode(), WHERE)  # the control: it is the change that is refused
    change(found)
    with pytest.raises(CardError, match=said) as caught:
        CardFile.from_bytes(json.dumps(found).encode(), WHERE)
    assert WHERE in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no card"),
        (b"[]", "no JSON object"),
        (b"\xff", "no card"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1, "a": 1}', "twice"),
        (b'{"a": 9007199254740993}', "canonical"),
        (b'{"a": 1e999}', "canonical"),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", "deeper"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no card"),
        (b'{"a": "\\ud800"}', "canonical"),
        (b"{" + b"," * (document.MAX_VALUES + 1), "values"),
        (b" " * (document.MAX_BYTES + 1), "bytes"),
    ],
    ids=range(12),
)
def test_bytes_that_are_no_card(data: bytes, said: str) -> None:
    with pytest.raises(CardError, match=said):
        CardFile.from_bytes(data, WHERE)
