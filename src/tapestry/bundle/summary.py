"""The summary of training content that Art. 53(1)(d) of the EU's AI Act asks for, as far as cards can fill
it.

The sections are those of the template that the European Commission published on 24 July 2025. What is
answered is taken from public fields of cards alone; what no card knows is left to the provider, not guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tapestry.catalog.card import Card

TEMPLATE: Final = (
    "European Commission, template of 24 July 2025 for Art. 53(1)(d) of Regulation (EU) 2024/1689"
)
ASKED: Final = "to be filled by the provider"
PUBLIC: Final = ("owner", "languages", "domain", "licence", "category", "provenance", "made", "tokens")
BANDS: Final = ((10**9, "less than 1 billion tokens"), (10**13, "1 billion to 10 trillion tokens"))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One field of the template."""

    section: str
    field: str
    value: str | None
    """None where the provider must say it."""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "section": self.section,
            "field": self.field,
            "value": self.value,
            "from": "provider" if self.value is None else "cards",
            "note": self.note,
        }


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What anybody may know of a dataset."""

    name: str
    public: dict[str, Any]
    """Fields whose visibility is `public`."""


def shown(card: Card) -> Dataset:
    """A card without what is not public."""
    values = {field: card.value(field) for field in PUBLIC if card.level(field) == "public"}
    return Dataset(name=card.name, public={key: each for key, each in values.items() if each})


def fill(cards: Iterable[Card], models: Sequence[str]) -> list[Answer]:
    """All fields of the template, in its order.

    Args:
        cards: of the datasets that went in.
        models: names of the shared bases they went into.
    """
    datasets = sorted((shown(card) for card in cards), key=lambda each: each.name)
    return [*_general(datasets, models), *_sources(datasets), *_processing()]


def _asked(section: str, *fields: str, note: str = "") -> list[Answer]:
    return [Answer(section=section, field=field, value=None, note=note) for field in fields]


def _general(datasets: Sequence[Dataset], models: Sequence[str]) -> list[Answer]:
    languages = sorted({tag for each in datasets for tag in each.public.get("languages", ())})
    domains = sorted({each.public["domain"] for each in datasets if "domain" in each.public})
    named = Answer(
        section="1.2 Model",
        field="Model dependencies",
        value=f"shared bases of the runs {', '.join(models)}, trained with Tapestry" if models else None,
    )
    return [
        *_asked("1.1 Provider", "Provider, with contact", "Authorised representative, with contact"),
        *_asked("1.2 Model", "Versioned name of the model"),
        named,
        *_asked("1.2 Model", "Date of placement on the Union market"),
        Answer(section="1.3 Training data", field="Modality", value="text" if datasets else None),
        Answer(section="1.3 Training data", field="Size", value=_size(datasets), note=_SIZE_NOTE),
        Answer(
            section="1.3 Training data",
            field="Types of content",
            value=", ".join(domains) or None,
            note="domains of the cards",
        ),
        *_asked("1.3 Training data", "Latest date of acquisition"),
        Answer(
            section="1.3 Training data",
            field="Linguistic characteristics",
            value=", ".join(languages) or None,
            note="languages of the cards, BCP 47",
        ),
        *_asked("1.3 Training data", "Other relevant characteristics"),
    ]


_SIZE_NOTE: Final = "of this node's datasets alone, in tokens of one byte; other members have theirs"


def _size(datasets: Sequence[Dataset]) -> str | None:
    """The band of the template; None unless every card shows its size to everybody."""
    if not datasets or not all("tokens" in each.public for each in datasets):
        return None
    total = sum(each.public["tokens"] for each in datasets)
    return next((words for most, words in BANDS if total < most), "more than 10 trillion tokens")


def _sources(datasets: Sequence[Dataset]) -> list[Answer]:
    third, licensed, crawled = (
        "2.1 Publicly available datasets",
        "2.2 Private datasets obtained from third parties",
        "2.3 Data crawled and scraped from online sources",
    )
    return [
        Answer(
            section=third,
            field="Datasets that their cards call open",
            value=_of_category(datasets, ("open", "unique-open")),
            note="whether a third party compiled them, and where they are to be had, no card says",
        ),
        *_asked(third, "Links, and which are large by the template's measure"),
        Answer(
            section=licensed,
            field="Datasets that their cards do not call open",
            value=_of_category(datasets, ("controlled", "sovereign", "private")),
            note="whether they were licensed (2.2.1), obtained otherwise (2.2.2), or belong to 2.4, 2.5 or "
            "2.6, no card says",
        ),
        *_asked(
            licensed,
            "Licences concluded with rightsholders",
            "Description of datasets from other third parties",
        ),
        *_asked(
            crawled,
            "Whether crawlers were used; their names, purposes and behaviour",
            "Period of collection, sources, and the most relevant domain names",
            note="how a text was collected stands in the provenance of its card, which is private by default",
        ),
        *_asked("2.4 User data", "Whether data of users' interactions was used, and of which services"),
        *_asked("2.5 Synthetic data", "Whether synthetic data was made for it, and with which models"),
        *_asked("2.6 Other sources", "Whether there are others, and which"),
    ]


def _of_category(datasets: Sequence[Dataset], categories: Sequence[str]) -> str | None:
    """Datasets of these categories; None where there is none to be sure of."""
    found = [_words(each) for each in datasets if each.public.get("category") in categories]
    silent = [each.name for each in datasets if "category" not in each.public]
    if silent:
        found.append(f"and perhaps {', '.join(silent)}, whose category is not public")
    return "; ".join(found) or ("none" if datasets else None)


def _words(dataset: Dataset) -> str:
    """A dataset in one line."""
    public = dataset.public
    parts = [", ".join(public.get("languages", ())), public.get("domain", ""), public.get("licence", "")]
    parts += [public.get("owner", ""), public.get("provenance", "")]
    told = ", ".join(part for part in parts if part)
    return f"{dataset.name} ({told})" if told else dataset.name


def _processing() -> list[Answer]:
    return [
        *_asked(
            "3.1 Respect of reservations of rights",
            "Whether the Code of Practice was signed; measures to respect reservations of rights",
            note="what entered training passed the licence rules of the node; see the assertions",
        ),
        *_asked("3.2 Removal of illegal content", "Measures"),
        *_asked("3.3 Other information", "Optional"),
    ]


def markdown(answers: Sequence[Answer], node: str) -> str:
    """For people, and to be filled."""
    asked = sum(answer.value is None for answer in answers)
    lines = [
        "# Summary of training content: a draft",
        "",
        f"After the {TEMPLATE}.",
        f"Made of public fields of the cards of node {node}; {asked} of {len(answers)} fields are *{ASKED}*. "
        "Copy it out of this folder to fill it, and hold it against the template in force before you publish "
        "it: this is a help, and no legal advice.",
    ]
    section = ""
    for answer in answers:
        if answer.section != section:
            section = answer.section
            lines += ["", f"## {section}", "", "| field | answer |", "|---|---|"]
        value = f"*{ASKED}*" if answer.value is None else _cell(answer.value)
        note = f" <br> ({_cell(answer.note)})" if answer.note else ""
        lines.append(f"| {answer.field} | {value}{note} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A card's words in a table of Markdown: nothing of them is markup."""
    for mark in "\\`*_[]|~":
        text = text.replace(mark, "\\" + mark)
    return text.replace("<", "&lt;").replace(">", "&gt;")
