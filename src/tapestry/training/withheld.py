"""Which documents of a folder a node's protected.toml keeps from training, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tapestry.catalog.protected import Protected, Watch
from tapestry.protocol.canonical import sha256
from tapestry.training.corpus import find_files
from tapestry.training.documents import documents
from tapestry.training.examples import Example


def withheld(
    folder: Path, protected: Protected, only: Callable[[str], bool] = lambda path: True
) -> dict[str, int]:
    """Documents by the topic or holding that keeps them out, `only` of some files. Errors as of `find_files`
    and `documents`."""
    found: Counter[str] = Counter({each.name: 0 for each in protected.file.topics})
    found.update({each.name: 0 for each in protected.file.holdings})
    for file in (file for file in find_files(folder) if only(file.name)):
        said: list[Example] = []

        def told(example: Example, said: list[Example] = said) -> str:
            said[:] = [example]
            return ""

        for document in documents(file.path, examples=told):
            watch = Watch(protected, file.name)
            for _ in watch.through(document):
                pass
            name = kept_out(said.pop(), protected, file.name) if said else watch.any and watch.found()
            if name:
                found[name] += 1
    return dict(sorted(found.items()))


def kept_out(example: Example, protected: Protected, path: str) -> str | None:
    """The topic or holding that keeps an example from training, in a file at that path below its folder: by
    what it says, or as a document, which is its canonical JSON."""
    if protected.by_document and (name := protected.held(sha256(example.document.encode()))) is not None:
        return name
    return protected.look((example.text,), path)
