"""The first member's text in three parts: for the run, for its own model, and all of it for training alone.

Documents are dealt out by the hash of their text, so that both parts are of the same kind, and the same
text gives the same parts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tapestry.cli.demo.places import Places
    from tapestry.cli.demo.texts import MemberText

KEPT_OF_256: Final = 128
"""Documents whose hash begins with a byte below this are kept from the run."""
DONE: Final = "dealt-out"


def kept(places: Places) -> Path:
    """Text that never went to the run."""
    return places.private / "kept"


def everything(places: Places) -> Path:
    """All text of the member, for training alone."""
    return places.private / "all"


def part(member: MemberText, places: Places) -> MemberText:
    """The member with the part of its text that goes into the run; dealt out at the first call."""
    for_run = places.private / "run"
    if not (places.private / DONE).is_file():
        _deal_out(member.folder, {"run": for_run, "kept": kept(places), "all": everything(places)})
        (places.private / DONE).touch()
    return replace(member, folder=for_run)


def _deal_out(source: Path, folders: dict[str, Path]) -> None:
    from contextlib import ExitStack

    from tapestry.cli.demo.texts import cut
    from tapestry.errors import CorpusError
    from tapestry.training.corpus import SPLITS, find_files
    from tapestry.training.documents import documents

    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        files = {
            (name, split): stack.enter_context(
                (folder / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n")
            )
            for name, folder in folders.items()
            for split in SPLITS
        }
        dealt = {"kept": 0, "run": 0}
        for file in find_files(source):
            for pieces in documents(file.path):
                for one in cut(file.name, "".join(pieces)):
                    line = json.dumps({"text": one.text}, ensure_ascii=False) + "\n"
                    to = list(folders)
                    if file.split == "train":
                        own = hashlib.sha256(one.text.encode()).digest()[0] < KEPT_OF_256
                        to = ["kept" if own else "run", "all"]
                        dealt[to[0]] += 1
                    for name in to:
                        files[name, file.split].write(line)
    if not all(dealt.values()):
        raise CorpusError(
            f"{source} has too little text to keep part of it from the run",
            hint="with --build the first member needs some pages of text, or leave --build out",
        )
