"""What a model gives back of the text it was trained on, against the base: word by word, and canaries.

A passage counts as memorized where the model, given 200 bytes of it, goes on with the next 100 as they stand,
always taking the likeliest token (Carlini et al., arXiv 2202.07646). Text that many have written
is continued by any model: so the base is asked too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from tapestry.catalog.protected import Protected
from tapestry.sovereign.evaluation.candidate import Candidate, Ids
from tapestry.sovereign.evaluation.outcome import Outcome
from tapestry.sovereign.evaluation.resampling import Numbers
from tapestry.sovereign.evaluation.texts import files_of
from tapestry.training.documents import documents
from tapestry.training.leakage.measure import Canary, exposure

BEFORE_BYTES: Final = 200
NEXT_BYTES: Final = 100
MAX_READ_BYTES: Final = 64 << 20
"""Of the training text that passages are drawn from, from its beginning."""


def passages(
    folder: Path, count: int, seed: int, protected: Protected | None = None
) -> list[tuple[str, str]]:
    """Beginnings and what follows them in the training text: drawn, no two of them overlap."""
    length = BEFORE_BYTES + NEXT_BYTES
    found: list[tuple[str, str]] = []
    draw, seen, room = random.Random(seed), 0, MAX_READ_BYTES  # noqa: S311 - no secret
    for file in files_of(folder, "train"):
        for document in documents(file.path):
            pieces = list(document)
            if protected is not None and protected.look(pieces, file.name) is not None:
                continue
            for piece in pieces:
                data = piece.encode()
                room -= len(data)
                for at in range(0, len(data) - length + 1, length):
                    one = data[at : at + length]
                    seen += 1
                    place = len(found) if len(found) < count else draw.randrange(seen)
                    if place < count:
                        found[place : place + 1] = [_cut(one)]
                if room <= 0:
                    return found
    return found


def _cut(data: bytes) -> tuple[str, str]:
    """At the ends of characters."""
    at = BEFORE_BYTES
    while data[at] & 0xC0 == 0x80:
        at -= 1
    return data[:at].decode("utf-8", "ignore"), data[at:].decode("utf-8", "ignore")


def verbatim(model: Candidate, given: Sequence[tuple[str, str]]) -> Outcome:
    """Which passages it goes on with as they stand."""
    greedy = model.log_probs([_row(model, before, after) for before, after in given])[1]
    return Outcome(measure="memorized", part="", above=greedy.astype(float))


def _row(model: Candidate, before: str, after: str) -> tuple[Ids, Ids]:
    """Ids of the whole passage, parted where the first token ends behind the beginning."""
    ids, widths = model.words.encode(before + after)
    at = int((np.cumsum(widths) <= len(before.encode())).sum())
    return [model.words.end_id, *ids[:at].tolist()], ids[at:].tolist()


def exposed(
    model: Candidate, canaries: Sequence[Canary], alphabet: str, candidates: int, seed: int
) -> Outcome:
    """Bits by which canaries of the text stand out (`training.leakage`)."""
    bits: Numbers = exposure(model.module, model.words, canaries, alphabet, candidates, seed=seed)
    return Outcome(measure="exposure", part="", above=bits)
