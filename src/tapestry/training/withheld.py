"""Which documents of a folder a node's protected.toml keeps from training, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tapestry.catalog.protected import Protected, Watch
from tapestry.training.corpus import find_files
from tapestry.training.documents import documents


def withheld(
    folder: Path, protected: Protected, only: Callable[[str], bool] = lambda path: True
) -> dict[str, int]:
    """Documents by the topic or holding that keeps them out, `only` of some files. Errors as of `find_files`
    and `documents`."""
    found: Counter[str] = Counter({each.name: 0 for each in protected.file.topics})
    found.update({each.name: 0 for each in protected.file.holdings})
    for file in (file for file in find_files(folder) if only(file.name)):
        for document in documents(file.path, examples=True):
            watch = Watch(protected, file.name)
            for _ in watch.through(document):
                pass
            if watch.any and (name := watch.found()) is not None:
                found[name] += 1
    return dict(sorted(found.items()))
