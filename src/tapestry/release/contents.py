"""Whether the files of a release are, to the byte, the state that was accepted.

Four small files lead from the state's digest, which the ledger has, to the weights: `provenance/state.json`
names model and base, `model.json` the layout and the files beside the weights, `base.json` a hash for each
shard, and `layout.json` where each shard lies in `model.safetensors`. So no blob folder is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from tapestry.errors import ArtifactError, HashMismatch, ReleaseError
from tapestry.host import files
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, Model, State
from tapestry.protocol.layout import MAX_BLOB_BYTES, Layout
from tapestry.protocol.message import Message

WEIGHTS: Final = "model.safetensors"
CARD: Final = "README.md"
BOM: Final = "bom.cdx.json"
RELEASE: Final = "release.json"
LEAKAGE: Final = "leakage.json"
STATE, MODEL, LAYOUT, BASE = (f"provenance/{name}.json" for name in ("state", "model", "layout", "base"))
WRITTEN: Final = (CARD, BOM, LEAKAGE, RELEASE)
"""Made for the release; all else is of the state."""
SUFFIXES: Final = (".json", ".txt", ".jinja", ".model")
"""Of files beside the weights: no code, no pickle."""
DIVERTING: Final = ("adapter_config.json", ".index.json")
"""With one of these, programs take other weights than `model.safetensors`."""
PIECE_BYTES: Final = 1 << 20
M = TypeVar("M", bound=Message)
Progress = Callable[[int, int], None]
Known = tuple[str, int]
"""SHA-256 and length of a file."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """From a state to the bytes of its weights."""

    state: State
    model: Model
    layout: Layout
    base: Artifact

    def texts(self) -> dict[str, bytes]:
        """The small files, by path."""
        return {
            STATE: self.state.to_bytes(),
            MODEL: self.model.to_bytes(),
            LAYOUT: self.layout.to_bytes(),
            BASE: self.base.to_bytes(),
        }

    def paths(self) -> set[str]:
        """All that a release of it has."""
        own = {each.path for each in self.model.files} - {CARD}
        odd = own & {WEIGHTS, *WRITTEN}
        odd |= {path for path in own if not path.endswith(SUFFIXES) or path.endswith(DIVERTING)}
        if odd:
            raise ReleaseError(
                f"the model brings a file of its own called {min(odd)}",
                hint="a model with such a file cannot be released, since it would run code, lead to other "
                "weights or take the place of what is written; its run must be planned without it",
            )
        return {*own, *self.texts(), WEIGHTS, *WRITTEN}


def chain(folder: Path, state: str) -> Chain:
    """The chain that lies in a release's folder. Raises `ReleaseError` unless it leads from that state."""
    said = _read(folder / STATE, State, state)
    model = _read(folder / MODEL, Model, said.model)
    layout = _read(folder / LAYOUT, Layout, model.layout)
    base = _read(folder / BASE, Artifact, said.base)
    try:
        base.check_against(layout, kind="base")
    except ArtifactError as e:
        raise ReleaseError(f"the release's base does not fit its layout: {e.message}") from e
    return Chain(state=said, model=model, layout=layout, base=base)


def check(
    folder: Path, state: str, progress: Progress = lambda _done, _all: None, *, whole: bool = True
) -> tuple[Chain, dict[str, Known]]:
    """Hold a release's folder against the state that was accepted; reads all weights once, a shard at a time.

    Args:
        whole: whether the hash of the weights as one file is wanted as well.

    Returns:
        the chain, and hash and length of each file that is of the state; those of the weights if wanted.

    Raises:
        ReleaseError: a file is missing, there is one too many, or it is not of this state.
    """
    found = chain(folder, state)
    expected, there = found.paths(), set(paths(folder))
    if odd_ones := (expected ^ there) - ({LEAKAGE} - there):  # the first releases had none
        odd = min(odd_ones)
        raise ReleaseError(f"{odd} {'is missing' if odd in expected else 'does not belong there'}")
    known = {path: (canonical.sha256(data), len(data)) for path, data in found.texts().items()}
    for each in found.model.files:
        if each.path == CARD:
            continue
        known[each.path] = hashed(folder / each.path)
        if known[each.path] != (each.blob.sha256, each.blob.bytes):
            raise ReleaseError(f"{each.path} is not the file of the state that was accepted")
    hasher = hashlib.sha256() if whole else None
    size = _weights(folder / WEIGHTS, found, progress, hasher)
    if hasher is not None:
        known[WEIGHTS] = hasher.hexdigest(), size
    return found, known


def paths(folder: Path) -> Iterator[str]:
    """Files below a folder, in order; links and the like are refused."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ReleaseError(f"{path} is neither a file nor a folder")
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def hashed(path: Path) -> Known:
    size, hasher = 0, hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            hasher.update(piece)
            size += len(piece)
    return hasher.hexdigest(), size


def _weights(path: Path, found: Chain, progress: Progress, whole: Any) -> int:
    """Each shard against its own hash; `whole`, if there is one, takes in all of it. Returns the length."""
    with path.open("rb") as file:
        header = found.layout.whole_header
        if file.read(len(header)) != header:
            raise ReleaseError(f"the header of {path.name} is not that of the state's layout")
        if whole is not None:
            whole.update(header)
        total = len(found.layout.shards)
        for shard, blob in zip(found.layout.shards, found.base.shards, strict=True):
            if shard.data_bytes > MAX_BLOB_BYTES:
                raise ReleaseError(f"shard {shard.index} is larger than any may be")
            data = file.read(shard.data_bytes)
            if whole is not None:
                whole.update(data)
            hasher = hashlib.sha256(shard.header)
            hasher.update(data)
            if hasher.hexdigest() != blob.sha256:
                raise ReleaseError(
                    f"shard {shard.index} of {path.name} is not that of the state that was accepted"
                )
            progress(shard.index + 1, total)
        if file.read(1):
            raise ReleaseError(f"{path.name} goes on behind its last shard")
        return file.tell()


def _read(path: Path, kind: type[M], digest: str) -> M:
    try:
        data = files.read_limited(path, kind.MAX_BYTES, follow_symlinks=False)
    except OSError as e:
        raise ReleaseError(f"{path.name} is missing: {e.strerror}") from e
    if canonical.sha256(data) != digest:
        raise ReleaseError(f"{path.name} is not what {digest[:12]} names") from HashMismatch(str(path))
    return kind.from_bytes(data)
