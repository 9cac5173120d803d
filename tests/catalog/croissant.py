"""`make croissant`: cards of ours under mlcroissant, and broken ones that it must refuse."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapestry.catalog.croissant import render
from tests.catalog.made import card
from tests.catalog.test_lineage import GIVEN

Json = dict[str, Any]

VALID: dict[str, Json] = {
    "plain": {},
    "own terms, nothing else said": {
        "licence": "LicenseRef-Acme", "consent_until": None, "retention": None, "description": "Letters.",
    },
    "an expression": {"licence": "MIT OR CC-BY-4.0"},
    "all stages": {"stages": ["base", "contributed-cpt", "private-cpt", "sft", "preference", "evaluation"]},
    "fields of others": {},
    "a lineage": {"lineage": GIVEN},
}  # fmt: skip
BROKEN: dict[str, Callable[[Json], object]] = {
    "a file without a hash": lambda found: found["distribution"][0].pop("sha256"),
    "a file without an address": lambda found: found["distribution"][0].pop("contentUrl"),
    "no type": lambda found: found.pop("@type"),
}


def accepted(program: str, folder: Path, found: Json) -> tuple[bool, str]:
    """Whether mlcroissant takes a card, and what it said."""
    path = folder / "card.json"
    path.write_text(json.dumps(found))
    done = subprocess.run(
        [program, "validate", "--jsonld", str(path)], capture_output=True, text=True, check=False
    )
    return done.returncode == 0 and "Done" in done.stderr, done.stderr


def main(program: str) -> int:
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, changed in VALID.items():
            found = copy.deepcopy(render(card(**changed)))
            if name == "fields of others":
                found |= {"citeAs": "Acme 2026", "rai:dataBiases": "Letters of the rich."}
            good, said = accepted(program, Path(scratch), found)
            strange = "not standard" in said
            sys.stdout.write(f"{'accepted' if good and not strange else 'REFUSED '}  {name}\n")
            if not good or strange:
                wrong += 1
                sys.stdout.write(said)
        for name, spoil in BROKEN.items():
            found = copy.deepcopy(render(card()))
            spoil(found)
            good, _ = accepted(program, Path(scratch), found)
            sys.stdout.write(f"{'ACCEPTED' if good else 'refused '}  {name}\n")
            wrong += good
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
