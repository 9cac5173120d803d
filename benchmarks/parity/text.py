"""Members' text: one folder a language, or made up on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Final

from tapestry.errors import CorpusError, SettingsError
from tapestry.protocol.canonical import is_name
from tapestry.training.corpus import Corpus, open_corpus
from tapestry.training.tokenizer import Tokenizer

ALPHABETS: Final = {
    "cyrillic": "абвгдежзиклмнопрстуф",
    "greek": "αβγδεζηθικλμνοπρστυφ",
    "latin": "abcdefghijklmnoprstu",
    "thai": "กขคงจชซดตทนบปผพมยรลว",
}
_WORDS: Final = 24
_DOCUMENT_WORDS: Final = 80


def choose(corpora: Path, languages: str | None, default: int) -> dict[str, Path]:
    """Folders by name, in the order of names.

    Args:
        corpora: holds one folder a language, named as a member may be.
        languages: names with commas between them, or how many, from the first on; None for `default`.
        default: how many.

    Raises:
        CorpusError: no such folder, or too few.
        SettingsError: no names and no count.
    """
    if not corpora.is_dir():
        raise CorpusError(f"corpora {corpora} is not a folder", hint="give one with a folder a language")
    there = {path.name: path for path in sorted(corpora.iterdir()) if path.is_dir() and is_name(path.name)}
    names = _names(list(there), languages, default)
    if missing := [name for name in names if name not in there]:
        raise CorpusError(
            f"{corpora} has no folder {missing[0]}", hint=f"it has: {', '.join(there) or 'none'}"
        )
    return {name: there[name] for name in names}


def make_up(folder: Path, languages: str | None, default: int, *, documents: int = 60) -> dict[str, Path]:
    """Made-up text below `folder`, written once: words of a member's own alphabet that follow each other
    by rules of its own, so many documents to train on. Raises as `choose` does."""
    names = _names(list(ALPHABETS), languages, default)
    if missing := [name for name in names if name not in ALPHABETS]:
        raise CorpusError(
            f"no text is made up for {missing[0]}",
            hint=f"give --corpora, or languages among {', '.join(ALPHABETS)}",
        )
    for name in names:
        for split, count in (("train", documents), ("valid", 5)):
            path = folder / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_made_up(name, split, count), encoding="utf-8")
    return {name: folder / name for name in names}


def read(folders: dict[str, Path], cache: Path) -> dict[str, Corpus]:
    """Each member's corpus, a byte a token."""
    tokenizer = Tokenizer.byte_level()
    return {name: open_corpus(folder, tokenizer, cache) for name, folder in sorted(folders.items())}


def _names(there: list[str], languages: str | None, default: int) -> list[str]:
    asked = languages or str(default)
    if not asked.isdecimal():
        names = sorted({name.strip() for name in asked.split(",")} - {""})
    else:
        names = there[: int(asked)]
        if len(names) < int(asked):
            raise CorpusError(
                f"{asked} languages are wanted and {len(names)} are there", hint="ask for fewer: --languages"
            )
    if len(names) < 2:
        raise SettingsError(f"--languages {asked} names fewer than two", hint="as in de,fr or 4")
    return names


def _made_up(name: str, split: str, documents: int) -> str:
    """JSON lines, the same each time. Three words may follow a word, so there is something to learn."""
    words = Random(name)
    letters = ALPHABETS[name]
    vocabulary = ["".join(words.choices(letters, k=words.randint(2, 6))) for _ in range(_WORDS)]
    follows = [words.choices(range(_WORDS), k=3) for _ in range(_WORDS)]
    order = Random(f"{name} {split}")
    lines = []
    for _ in range(documents):
        at = order.randrange(_WORDS)
        said = []
        for _ in range(_DOCUMENT_WORDS):
            said.append(vocabulary[at])
            at = order.choice(follows[at])
        lines.append(json.dumps({"text": " ".join(said)}, ensure_ascii=False))
    return "\n".join(lines) + "\n"
