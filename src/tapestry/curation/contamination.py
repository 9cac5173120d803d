"""Text of evaluation sets in what is to be trained on: runs of letters that are in both.

The hashes of all runs of the evaluation sets lie sorted in files, which every process maps into its memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tapestry.curation import settings
from tapestry.curation.letters import Document, Hashes
from tapestry.curation.step import Look, Step
from tapestry.errors import SettingsError

_BITS: Final = 20
"""Of a hash, for the table that most runs are told apart by."""
MAX_RUNS: Final = 1 << 27
"""Of all evaluation sets together: a gigabyte."""


@dataclass(frozen=True)
class Evaluation:
    """Hashes of the runs of evaluation sets, in files.

    Args:
        runs: letters of a run, and the file with their hashes in ascending order.
        digest: of all these hashes.
        documents: how many there are.
        too_short: of them, those with fewer letters than a run, which cannot be found.
    """

    runs: tuple[tuple[int, Path], ...]
    digest: str
    documents: int
    too_short: int

    @classmethod
    def of(cls, texts: Iterable[str], given: settings.Contamination, folder: Path) -> Evaluation:
        """Hash the documents of evaluation sets; the files are put into a folder.

        Raises:
            SettingsError: there are more runs than fit.
        """
        found: dict[int, list[Hashes]] = {given.letters: [], given.letters_unspaced: []}
        documents = too_short = total = 0
        for text in texts:
            document = Document(text)
            k = given.letters_unspaced if document.unspaced else given.letters
            runs = np.unique(document.runs(k))
            documents, too_short, total = documents + 1, too_short + (not len(runs)), total + len(runs)
            if total > MAX_RUNS:
                raise SettingsError(
                    f"the evaluation sets have more than {MAX_RUNS} letters",
                    hint="take those that the model will be judged by",
                )
            found[k].append(runs)
        files, digest = [], hashlib.sha256()
        for k, parts in sorted(found.items()):
            if len(runs := np.unique(np.concatenate([np.empty(0, np.uint64), *parts]))):
                path = folder / f"runs-{k}"
                runs.tofile(path)
                digest.update(k.to_bytes(8, "little") + runs.tobytes())
                files.append((k, path))
        return cls(tuple(files), digest.hexdigest(), documents, too_short)


class Contamination(Step):
    """Leaves out what shares too much with the evaluation sets."""

    name = "contamination"

    def __init__(self, given: settings.Contamination, evaluation: Evaluation) -> None:
        self._settings = given
        self.digest = evaluation.digest
        self._runs = [(k, _Table(path)) for k, path in evaluation.runs]

    def look(self, document: Document) -> Look:
        letters = len(document.letters)
        shared = max(
            (_covered(table.has(document.runs(k)), k, letters) for k, table in self._runs), default=0
        )
        if not shared:
            return Look()
        too_much = shared > self._settings.max_letters or shared > self._settings.max_share * letters
        return Look(
            why="shared-text" if too_much else None, counts={"with-shared-text": 1, "shared-letters": shared}
        )


class _Table:
    """Sorted hashes in a file."""

    def __init__(self, path: Path) -> None:
        self._sorted = np.memmap(path, np.uint64, "r")
        self._may = np.zeros(1 << _BITS, np.bool_)
        self._may[(self._sorted >> np.uint64(64 - _BITS)).astype(np.int64)] = True

    def has(self, runs: Hashes) -> npt.NDArray[np.bool_]:
        """(r,) whether each of r hashes is there."""
        found = self._may[(runs >> np.uint64(64 - _BITS)).astype(np.int64)]
        if maybe := np.flatnonzero(found).tolist():
            wanted = runs[maybe]
            at = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
            found[maybe] = self._sorted[at] == wanted
        return found


def _covered(hits: npt.NDArray[np.bool_], k: int, letters: int) -> int:
    """How many of the letters are in a run that hits."""
    starts = np.flatnonzero(hits)
    if not len(starts):
        return 0
    edges = np.zeros(letters + 1, np.int64)
    edges[starts] += 1
    edges[starts + k] -= 1
    return int((np.cumsum(edges) > 0).sum())
