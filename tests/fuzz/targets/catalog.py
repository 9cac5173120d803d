"""What owners write and members publish: cards, licences, rules, entries of the catalog."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random

from tapestry.catalog.croissant import CardFile
from tapestry.catalog.lineage import Lineage
from tapestry.catalog.listing import CatalogEntry, shown
from tapestry.catalog.overview import of_entry
from tapestry.catalog.policy import RULES, Policy
from tapestry.catalog.protected import Protected
from tapestry.protocol import canonical
from tests.catalog.made import card
from tests.catalog.test_lineage import GIVEN
from tests.fuzz.mutate import STRINGS, json_bytes, octets
from tests.fuzz.target import Mutate, Parser, Target

OWN = b"""@id("songs") @needed("ask the elders")
forbid (principal, action in Action::"shared", resource)
when { resource.domain == "songs" || context.today > 20000 || resource.languages.contains("de") }
unless { principal has residency && principal.residency == "CH" };
"""
EXPRESSIONS = (
    b"MIT",
    b"CC-BY-4.0 AND (GPL-2.0-or-later WITH Classpath-exception-2.0 OR LicenseRef-Acme)",
    b"LicenseRef-a.b-1 OR LicenseRef-a",
)
PARTS = (
    b" AND ",
    b" OR ",
    b" WITH ",
    b"(",
    b")",
    b"+",
    b"LicenseRef-",
    b"MIT",
    b"-",
    b"tapestryown0",
    b"\x00",
)
OF_CEDAR = (
    *(b"permit", b"forbid", b"when", b"unless", b"{", b"}", b"(", b")", b";", b"?principal", b"@id", b'"'),
    *(b"principal", b"resource", b"context", b"has", b"like", b"ip(", b"datetime(", b"&&", b"9" * 40, b"//"),
)

PROTECTED = """format = "tapestry.protected"
version = 1
[[topics]]
name = "songs"
[topics.terms]
en = [ "rain song" ]
zh-Hant = [ "祈雨歌" ]
[[holdings]]
name = "loans"
files = [ "train/[ab]/*" ]
""".encode()
OF_TOML = (
    *(
        b"[[topics]]",
        b"[[holdings]]",
        b"[topics.terms]",
        b"{",
        b"}",
        b"[",
        b"]",
        b"=",
        b'"',
        b"\n",
        b"[*",
        b"?",
    ),
    *(b"documents", b"name", b"1979-05-27", b"a.b.c", b"9" * 40, b"\\u0000", "́".encode(), "祈".encode()),
)


def _cards() -> Parser:
    file = {"split": "train", "bytes": 5, "sha256": "0" * 64}
    many = card(files=[{**file, "path": f"train/{n}.txt", "documents": 3 * (n == 0)} for n in range(9)])
    few = card(consent_until=None, consent_basis=None, retention=None, stages=["sft"], visibility={})
    curated = card(lineage=GIVEN)
    seeds = [canonical.encode(CardFile(card=each).document()) for each in (card(), many, few, curated)]

    def call(data: bytes) -> None:
        found = CardFile.from_bytes(data, "card.json")
        again = CardFile.from_bytes(found.to_bytes(), "card.json")
        if (again.card, again.digest) != (found.card, found.digest) or again.kept != found.kept:
            raise AssertionError("a card that was written is another card")
        shown(found.card)
        Policy().decide(found.card, "base", node="n", member="m", residency="CH", today="2026-11-22")

    return Parser(seeds=seeds, call=call)


def _texts(parts: Sequence[bytes]) -> Mutate:
    def mutate(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
        words = seed.split(b" ")
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(words) + 1)
            kind = random.randrange(5)
            if kind == 0:
                words.insert(at, random.choice(parts))
            elif kind == 1 and words:
                words.pop(at % len(words))
            elif kind == 2:
                words.insert(at, random.choice(STRINGS).encode("utf-8", "surrogatepass"))
            elif kind == 3:
                words.insert(at, random.choice(parts) * random.choice((2, 30, 3000)))
            else:
                return octets(random, b" ".join(words), seeds)
        return b" ".join(words)

    return mutate


def _licences() -> Parser:
    def call(data: bytes) -> None:
        card(licence=data.decode("utf-8", "replace"))

    return Parser(seeds=EXPRESSIONS, call=call)


def _rules() -> Parser:
    def call(data: bytes) -> None:
        policy = Policy(data.decode("utf-8", "replace"))
        decision = policy.decide(card(), "base", node="n", member="m", residency="CH", today="2026-11-22")
        if decision.permitted and decision.rule != "permit":
            raise AssertionError("permitted by what is not ours")
        private = card(category="private")
        if policy.decide(private, "base", node="n", member="m", residency="CH", today="2026-11-22").permitted:
            raise AssertionError("rules of an owner let private text into a base")

    return Parser(seeds=[OWN, RULES.encode(), OWN * 3], call=call)


def _entries() -> Parser:
    what, public = shown(card())
    entry = CatalogEntry(
        consortium="0" * 64,
        member="acme",
        node="acme-1",
        dataset="letters",
        at="2026-11-22T00:00:00.000Z",
        card=what,
        public=public,
    )
    seeds = [entry.to_bytes(), entry.model_copy(update={"card": None, "public": ()}).to_bytes()]

    def call(data: bytes) -> bytes:
        found = CatalogEntry.from_bytes(data)
        of_entry(found)
        return found.to_bytes()

    return Parser(seeds=seeds, call=call)


def _protected() -> Parser:
    text = "They sang a rain song, 祈雨歌, in a café."

    def call(data: bytes) -> None:
        found = Protected.parse(data, "protected.toml")
        if found.look((text,)) != found.look((text[:15], text[15:])):
            raise AssertionError("pieces make a difference")
        found.file_holding("train/a/b.txt")

    return Parser(seeds=[PROTECTED], call=call)


def _lineages() -> Parser:
    whole = Lineage.model_validate_json(json.dumps(GIVEN))

    def call(data: bytes) -> None:
        found = Lineage.from_bytes(data, "lineage.json")
        if Lineage.model_validate_json(json.dumps(Lineage.values(found.render()))) != found:
            raise AssertionError("a lineage that was written into a card is another one")

    return Parser(seeds=[whole.to_bytes(), Lineage.from_bytes(whole.to_bytes(), "").to_bytes()], call=call)


TARGETS: Sequence[Target] = (
    Target(name="protected", open=_protected, mutate=_texts(OF_TOML)),
    Target(name="lineage", open=_lineages, mutate=json_bytes),
    Target(name="card", open=_cards, mutate=json_bytes),
    Target(name="licence", open=_licences, mutate=_texts(PARTS)),
    Target(name="rights", open=_rules, mutate=_texts(OF_CEDAR)),
    Target(name="catalog-entry", open=_entries, mutate=json_bytes),
)
