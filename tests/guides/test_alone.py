"""Pages that need no consortium: a charter, a plan's estimate, a folder of text, its curation."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.curation import made
from tests.guides.pages import ROOT
from tests.guides.typist import scene

TYPES = {
    "docs/guides/charter.md": (),
    "docs/guides/corpora.md": (),
    "docs/guides/curation.md": (),
    "docs/guides/planner.md": ("The planner",),
}


def test_what_is_typed_without_a_consortium(tmp_path: Path) -> None:
    for place in ("clone", "letters"):
        (tmp_path / place).mkdir()
    (tmp_path / "clone" / "examples").symlink_to(ROOT / "examples")
    with scene(tmp_path, TYPES) as hand:
        said = hand.section("docs/guides/charter.md", "Writing a charter", at="clone")
        assert re.fullmatch("[0-9a-f]{64}", said.split()[0]), "the digest is what boards compare"
        assert "Of the 5 members who vote, 4 must say yes if all vote, 2 if only 3 do" in " ".join(
            said.split()
        )
        estimate = hand.section("docs/guides/planner.md", "The planner", at="clone")
        assert "49 minutes" in estimate or "49 min" in estimate, estimate

        texts(hand.root / "texts")
        hand.section("docs/guides/corpora.md", "What the folder holds", at="texts")
        counted = hand.words(
            "tapestry catalog add ./text --name all --license CC0-1.0 --language en --residency CH "
            "--category open --stage base --json",
            at="texts",
        )
        assert json.loads(counted)["documents"] == 100

        raw(hand.root / "letters")
        hand.words(
            "tapestry member init ./member --name acme\n"
            "tapestry node init ./node --member ./member --name acme-1 --corpus ./raw --residency CH\n",
            at="letters",
        )
        said = hand.section("docs/guides/curation.md", "Curating text", at="letters")
        assert (hand.root / "letters" / "node" / "cards" / "letters.json").is_file()
        report = json.loads((hand.root / "letters" / "text" / "curation.json").read_bytes())
        assert json.dumps(report).count("duplicates")


def texts(folder: Path) -> None:
    """One file that is to be split."""
    folder.mkdir()
    lines = [json.dumps({"text": f"Document {number}."}) + "\n" for number in range(100)]
    (folder / "all.jsonl").write_text("".join(lines))


def raw(folder: Path) -> None:
    """German that is to be curated, with a page that comes twice, and what models are judged by."""
    for name, text, seeds in (
        ("raw/train", made.GERMAN, (1, 2, 1)),
        ("raw/valid", made.GERMAN, (3,)),
        ("tests/letters", "Der Schaffner pfiff, und der Zug nach Basel fuhr ohne uns in die Nacht.", (4,)),
    ):
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = [{"text": f"{text} {made.prose(seed, 10)}"} for seed in seeds]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
