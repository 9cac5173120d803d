"""The model card of a release: lineage, evaluation and data, as far as the charter makes them public.

A function of the ledger, the state and what members publish of their datasets: each holder makes it anew
before it signs, and compares the bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from tapestry.catalog.listing import CatalogEntry
from tapestry.errors import ReleaseError
from tapestry.governance.state import Assembly
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import NODE_ONLY
from tapestry.release import leakage
from tapestry.release.contents import Chain
from tapestry.release.leakage import Leakages
from tapestry.release.view import Facts, Scored

SHOWN: Final = (
    "languages",
    "category",
    "licence",
    "domain",
    "documents",
    "bytes",
    "provenance",
    "consent_basis",
)
"""Fields of a dataset's card that the model card shows, where its owner has made them public."""
MAX_CELL: Final = 200


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is public of one dataset."""

    member: str
    dataset: str
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Share:
    member: str
    rounds: int
    share: float
    """Of the weight in all merges, for people to read."""
    tokens: int


def datasets(entries: Iterable[bytes], facts: Facts, assembly: Assembly) -> tuple[Data, ...]:
    """What is public of the datasets that members of the run list.

    Args:
        entries: envelopes of `CatalogEntry`.
        assembly: whose keys have signed them.

    Raises:
        ReleaseError: one is not signed by its member, or of another consortium.
    """
    if facts.charter.public.catalog != "public":
        return ()
    members = {each.member for each in facts.parts}
    newest: dict[tuple[str, str], CatalogEntry] = {}
    for data in entries:
        said = _listed(Envelope.from_bytes(data), facts, assembly)
        before = newest.get((said.member, said.dataset))
        if before is None or before.at < said.at:
            newest[said.member, said.dataset] = said
    return tuple(
        Data(member=said.member, dataset=said.dataset, fields=tuple(_fields(said)))
        for _, said in sorted(newest.items())
        if said.member in members and said.card is not None
    )


def _listed(envelope: Envelope, facts: Facts, assembly: Assembly) -> CatalogEntry:
    said = envelope.unverified(CatalogEntry)
    what = f"the card of {said.member}'s dataset {said.dataset}"
    key = assembly.ring.keys.get(envelope.signatures[0].keyid)
    if key is None or key.certificate.member != said.member or key.certificate.role not in NODE_ONLY:
        raise ReleaseError(f"{what} is not signed by that member")
    envelope.open_as(CatalogEntry, key.certificate.public_key)
    if said.consortium != facts.consortium:
        raise ReleaseError(f"{what} is for another consortium")
    return said


def _fields(said: CatalogEntry) -> Iterator[tuple[str, str]]:
    for name in SHOWN:
        value = getattr(said.card, name)
        if name in said.public and value is not None:
            yield name, ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def public_parts(facts: Facts) -> tuple[Share, ...] | None:
    """None where the charter keeps contributions to the members."""
    if facts.charter.public.contributions != "public":
        return None
    total = sum(each.weight for each in facts.parts)
    return tuple(
        Share(member=each.member, rounds=each.rounds, share=each.weight / total, tokens=each.tokens)
        for each in facts.parts
    )


def public_scores(facts: Facts) -> tuple[Scored, ...] | None:
    """None where the charter keeps scores to the members."""
    return facts.scores if facts.charter.public.scores == "public" else None


def limits(facts: Facts) -> tuple[str, ...]:
    """What the model is not."""
    return (
        "A base model: neither tuned to follow instructions nor checked for safety.",
        "Figures of evaluation are those that nodes state of their own text; nobody else has seen it.",
        "That the weights follow from the members' contributions can be verified with the ledger; what a "
        "member trained on cannot.",
    )


def card(facts: Facts, chain: Chain, data: tuple[Data, ...], leakages: Leakages) -> bytes:
    """README.md, with the front matter of a Hugging Face model card."""
    licence = chain.model.licence.lower()
    plain = re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence) is not None
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    head += [f"license: {licence if plain else json.dumps(licence)}", "tags:", "- tapestry", "---", ""]
    title = facts.plan.title or f"Base of {facts.run}"
    body = [
        f"# {_cell(title)}: {facts.release}",
        "",
        "A base model that its members trained together with Tapestry, each on text that stayed at its node, "
        "and released by a vote.",
        "",
        *_lineage(facts, chain),
        *_members(facts),
        *_evaluation(facts),
        *_data(facts, data),
        *leakage.section(facts, leakages),
        "## What it is not",
        "",
        *(f"- {each}" for each in limits(facts)),
        "",
        "## Using it",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        "```",
        "",
    ]
    return "\n".join(head + body).encode()


def _lineage(facts: Facts, chain: Chain) -> list[str]:
    rows = [
        ("release", facts.release),
        ("consortium", facts.title),
        ("consortium (SHA-256)", f"`{facts.consortium}`"),
        ("accepted", f"{facts.at}, entry {facts.sequence} of the ledger"),
        ("decision (SHA-256)", f"`{facts.decision}`"),
        ("charter (SHA-256)", f"`{facts.charter.digest}`"),
        ("run", facts.run),
        ("rounds", str(facts.rounds)),
        ("merges", str(facts.merges)),
        ("parameters", f"{chain.layout.elements:,}"),
        ("plan (SHA-256)", f"`{facts.plan.digest}`"),
        ("state (SHA-256)", f"`{facts.state}`"),
        ("base (SHA-256)", f"`{chain.state.base}`"),
        ("model (SHA-256)", f"`{chain.state.model}`"),
        ("licence", chain.model.licence),
    ]
    return ["## Lineage", "", *_table(("", ""), rows)]


def _members(facts: Facts) -> list[str]:
    head = ["## Members", ""]
    if not facts.parts:
        return [*head, "No contribution was merged: this is the state that the run began with.", ""]
    shares = public_parts(facts)
    if shares is not None:
        rows = [(each.member, each.rounds, f"{each.share:.1%}", f"{each.tokens:,}") for each in shares]
        return head + _table(("member", "rounds", "weight", "tokens trained on"), rows)
    if facts.charter.public.members == "public":
        names = ", ".join(each.member for each in facts.parts)
        return [*head, f"{names}. Who contributed how much, the charter keeps to the members.", ""]
    return [*head, "The charter keeps to the members who they are, and who contributed what.", ""]


def _evaluation(facts: Facts) -> list[str]:
    head = ["## Evaluation", ""]
    if facts.charter.public.scores != "public":
        return [*head, "The charter keeps scores to the members.", ""]
    if not facts.scores:
        return [*head, "No node had published a figure for this state when it was accepted.", ""]
    rows = [(each.node, each.member, f"{each.bits_per_byte:.6g}", f"{each.bytes:,}") for each in facts.scores]
    told = "Bits per byte of each node's own validation text, as the node states it."
    return [*head, told, "", *_table(("node", "member", "bits per byte", "bytes of text"), rows)]


def _data(facts: Facts, data: tuple[Data, ...]) -> list[str]:
    base = ", ".join(facts.charter.data.base)
    head = [
        "## Data",
        "",
        f"The charter lets datasets of these categories into the shared base: {base}. Text stayed at its "
        "nodes; each contribution is bound to a list of what it was trained on by a hash in the ledger.",
        "",
    ]
    if facts.charter.public.catalog != "public":
        return [*head, "The charter keeps the catalog of datasets to the members.", ""]
    if not data:
        return [*head, "No member of the run lists a dataset in the catalog.", ""]
    rows = [
        (each.member, each.dataset, *(dict(each.fields).get(name, "") for name in SHOWN)) for each in data
    ]
    told = "What members list of their datasets, as far as their owners have made it public:"
    return [*head, told, "", *_table(("member", "dataset", *SHOWN), rows)]


def _table(names: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> list[str]:
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return [*lines, *(f"| {' | '.join(_cell(each) for each in row)} |" for row in rows), ""]


def _cell(value: object) -> str:
    """One line that neither ends its cell nor is markup of its own."""
    text = " ".join(str(value).split())
    for sign in ("\\", "|", "<", "["):
        text = text.replace(sign, f"\\{sign}")
    return text[:MAX_CELL]
