"""Which token ids a text gets wherever it stands: what a search looks for in a tokenizer's place.

`python -m tapestry.training.marks` reads `{"text", "tokenizer"}` (a path) as JSON from its input and prints
the ids as JSON: a process of its own for who is not to load a tokenizer. Loads no torch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tapestry.errors import TapestryError
from tapestry.training.tokenizer import MAX_TOKENIZER_BYTES, Tokenizer

_AROUND = (" {}0", "{}0", "a {}12", '"{}07')


def inner_ids(tokenizer: bytes, text: str) -> list[int]:
    """The longest run of ids that the text has whatever stands around it. Raises `ModelError`."""
    made = Tokenizer.from_json(tokenizer)
    every = [made.encode(frame.format(text))[0].tolist() for frame in _AROUND]
    first, others = every[0], every[1:]
    best: list[int] = []
    for start in range(len(first)):
        for stop in range(len(first), start + len(best), -1):
            if all(_holds(other, first[start:stop]) for other in others):
                best = first[start:stop]
                break
    return best


def _holds(ids: list[int], part: list[int]) -> bool:
    return any(ids[at : at + len(part)] == part for at in range(len(ids) - len(part) + 1))


def main() -> int:
    given = json.load(sys.stdin)
    path = Path(given["tokenizer"])
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        return 2
    try:
        found = inner_ids(path.read_bytes(), given["text"])
    except TapestryError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
