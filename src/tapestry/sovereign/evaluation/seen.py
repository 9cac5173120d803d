"""Whether what a build is evaluated with was trained on: documents, by the leaves that cards count them by.

Found are documents that are the same to the byte. One that was cut, joined with others or written a little
otherwise is not, so that nothing found is no proof (`tapestry curate` looks for such).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapestry.catalog.content import leaf_of
from tapestry.errors import TapestryError
from tapestry.sovereign import recipe as recipes
from tapestry.sovereign.evaluation.given import Pair
from tapestry.sovereign.evaluation.report import Overlap
from tapestry.sovereign.evaluation.texts import Text, files_of
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Lineage
from tapestry.sovereign.places import Catalog
from tapestry.training.corpus import TextFile
from tapestry.training.documents import documents
from tapestry.training.examples import parse


@dataclass(frozen=True)
class Training:
    """Text that a model was trained on, as far as it is here.

    Args:
        files: that are here.
        missing: what is not, each with why.
    """

    files: tuple[TextFile, ...] = ()
    missing: tuple[str, ...] = ()

    def __add__(self, other: Training) -> Training:
        return Training((*self.files, *other.files), (*self.missing, *other.missing))


def of_folder(folder: Path) -> Training:
    """The train split of a corpus. Raises `CorpusError`."""
    return Training(tuple(files_of(folder, "train")))


def of_build(root: Path) -> Training:
    """What the stages of a finished build have read, where it lies as it was."""
    home = BuildHome(root)
    try:
        recipe = recipes.read(home.recipe)[0]
        catalog, lineage = Catalog(root, recipe), Lineage.load(home.lineage)
    except TapestryError as e:
        return Training(missing=(f"the training text: {e.message}",))
    found: list[TextFile] = []
    missing: list[str] = []
    read = {(each.name, each.root) for stage in lineage.stages for each in stage.datasets}
    left = {name for name, _ in read}
    for number, stage in recipe.stages():
        try:
            for card, folder in catalog.cards(stage):
                name, named = card.card.name, {file.path for file in card.card.files}
                left.discard(name)
                if (name, card.card.content.root) not in read:
                    missing.append(f"dataset {name} of stage {number}: it was changed since")
                elif catalog.is_withdrawn(card):
                    missing.append(f"dataset {name} of stage {number}: it was withdrawn")
                else:
                    found += [each for each in files_of(folder, "train") if each.name in named]
        except TapestryError as e:
            missing.append(f"the data of stage {number}: {e.message}")
    if not missing:
        missing += [f"dataset {name}: the recipe does not name it any more" for name in sorted(left)]
    missing += [f"the stages of {each.name}, from which it goes on" for each in home.ancestors(lineage)]
    return Training(tuple(dict.fromkeys(found)), tuple(missing))


def overlaps(
    training: Training, texts: Sequence[Text], pairs: Mapping[str, Sequence[Pair]]
) -> Iterator[Overlap]:
    """Of each text and each file of pairs, how many of its documents were trained on. Reads all of
    `training`."""
    wanted: list[tuple[str, str, tuple[bytes, ...]]] = [
        ("text", each.language, each.leaves) for each in texts
    ]
    wanted += [("pairs", name, tuple(map(_leaf, some))) for name, some in pairs.items()]
    sought = {leaf for _, _, leaves in wanted for leaf in leaves}
    seen = {leaf for leaf in _leaves(training.files) if leaf in sought} if sought else set()
    for kind, name, leaves in wanted:
        if leaves:
            yield Overlap.model_validate(
                {
                    "kind": kind,
                    "name": name,
                    "documents": len(leaves),
                    "trained_on": sum(leaf in seen for leaf in leaves),
                }
            )


def notes(training: Training, found: Sequence[Overlap]) -> Iterator[str]:
    """What has to be known to read the figures."""
    for each in found:
        if each.trained_on:
            what = "held-out text of" if each.kind == "text" else "pairs of"
            yield (
                f"{what} {each.name}: the build was trained on {each.trained_on} of these {each.documents} "
                "documents, so its figures on them say what it remembers, and are better than on others"
            )[:1000]
    for why in training.missing:
        yield f"not looked whether it was trained on what it is evaluated with, for {why}"[:1000]


def _leaf(pair: Pair) -> bytes:
    line = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    return leaf_of((parse(line).document,))[0]


def _leaves(files: Iterable[TextFile]) -> Iterator[bytes]:
    for file in files:
        for document in documents(file.path, examples=lambda each: each.document):
            yield leaf_of(document)[0]
