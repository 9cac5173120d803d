"""Bits per byte of several models on the same texts, by language: what a port is judged by at once."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapestry.errors import CorpusError, InputError
from tapestry.host import files
from tapestry.sovereign import models
from tapestry.sovereign.port.gain import Gain, gains
from tapestry.training.corpus import open_corpus
from tapestry.training.evaluation import bits_per_byte
from tapestry.training.model import read_tokenizer

TOKENS = 1 << 17
"""Of a text that are scored at most."""
WINDOW = 512
_MAX_TEXT = 256 << 20


@dataclass(frozen=True)
class Text:
    """Held-out text of one language: a .txt or .jsonl file."""

    language: str
    path: Path

    @classmethod
    def parse(cls, given: str) -> Text:
        """From LANGUAGE=FILE. Raises `InputError`."""
        language, equals, path = given.partition("=")
        if not equals or not language or not Path(path).is_file():
            raise InputError(
                f"{given!r} is not LANGUAGE=FILE with a file that exists",
                hint="say: de=./de.jsonl",
            )
        if Path(path).suffix not in (".txt", ".jsonl"):
            raise InputError(f"{path} is neither .txt nor .jsonl", hint="see docs/guides/corpora.md")
        return cls(language, Path(path))


def measure(
    texts: Sequence[Text], new_base: Path, ported: Path, rebuilt: Path | None, before: Path | None = None
) -> tuple[Gain, ...]:
    """Figures of each language. One model is in memory at a time.

    Args:
        texts: held-out text.
        new_base: directory of the new base.
        ported: of the derivative that was carried over.
        rebuilt: of the one made anew; None for none.
        before: of the derivative as it was; None where there is no model of it.

    Raises:
        CorpusError: a text that is empty, or cannot be read.
        ModelError: a model that cannot be opened.
    """
    if len({text.language for text in texts}) != len(texts):
        raise InputError("a language has two texts", hint="give each --text another language")
    places = (new_base, ported, rebuilt, before)
    found = [None if folder is None else _scores(folder, texts) for folder in places]
    return gains(found[0] or {}, found[1] or {}, found[2], before=found[3])


def _scores(folder: Path, texts: Sequence[Text]) -> dict[str, float]:
    model = models.open_model(folder)
    return {text.language: found for text, found in zip(texts, scores(model, folder, texts), strict=True)}


def scores(model: Any, folder: Path, texts: Sequence[Text]) -> list[float]:
    """Bits per byte of a model whose tokenizer lies in a folder, one for each text."""
    words = read_tokenizer(folder, end_id=_end(model.config.eos_token_id))
    window = min(WINDOW, model.config.max_position_embeddings)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, text in enumerate(texts):
            place = Path(scratch) / str(number)
            place.mkdir()
            data = files.read_limited(text.path, _MAX_TEXT)
            for split in ("train", "valid"):
                (place / f"{split}{text.path.suffix}").write_bytes(data)
            valid = open_corpus(place, words, Path(scratch) / "cache").valid
            scored = bits_per_byte(model, valid, sequence_length=window, max_tokens=TOKENS)
            if not scored.finite:
                raise CorpusError(f"{text.path} has no finite score")
            found.append(scored.bits_per_byte)
    return found


def _end(value: object) -> int | None:
    if isinstance(value, list):
        value = value[0] if value else None
    return value if type(value) is int else None
