"""What follows from a ledger for a draft: made by who proposes, made again by each who signs."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tuf.api.metadata import Root

from tapestry.errors import ReleaseError
from tapestry.host import files
from tapestry.protocol import canonical
from tapestry.release import bom, card, contents, roles
from tapestry.release.card import Data
from tapestry.release.contents import Chain
from tapestry.release.leakage import Leakages
from tapestry.release.messages import File, Release
from tapestry.release.view import Facts, View

SAYS, MODEL, CATALOG, SIGNED = "draft.json", "model", "catalog.jsonl", "signatures"
LEAKAGE: Final = "leakage.jsonl"
CURRENT_ROOT, CURRENT_TARGETS = "current/root.json", "current/targets.json"
ROOT, TARGETS, NEW_LIST = "new/root.json", "new/targets.json", "new/releases.json"
MAX_CATALOG_BYTES: Final = 64 << 20
MAX_LEAKAGE_BYTES: Final = 64 << 20
RENEW_DAYS: Final = 90
"""A list of holders is signed anew when it holds for less than this."""


def written(
    facts: Facts,
    chain: Chain,
    of_state: Mapping[str, tuple[str, int]],
    data: tuple[Data, ...],
    leakages: Leakages,
) -> dict[str, bytes]:
    """Card, bill of materials, leakage reports and `release.json`."""
    made = {
        contents.CARD: card.card(facts, chain, data, leakages),
        contents.LEAKAGE: leakages.to_bytes(),
        contents.BOM: bom.bom(facts, chain, {path: sha for path, (sha, _) in of_state.items()}, data),
    }
    known = {**of_state, **{path: (canonical.sha256(each), len(each)) for path, each in made.items()}}
    release = Release(
        consortium=facts.consortium,
        release=facts.release,
        decision=facts.decision,
        sequence=facts.sequence,
        at=facts.at,
        charter=facts.charter.digest,
        run=facts.run,
        merges=facts.merges,
        plan=facts.plan.digest,
        state=facts.state,
        base=chain.state.base,
        model=chain.state.model,
        files=tuple(File(path=path, sha256=sha, bytes=size) for path, (sha, size) in sorted(known.items())),
    )
    return {**made, contents.RELEASE: release.to_bytes()}


def due(view: View, online: str, expires: datetime.datetime, before: Root | None) -> Root:
    """Who may sign, as the ledger says now."""
    charter = view.assembly.governance.charter
    holding = roles.holders(view.assembly, view.at)
    assert charter is not None  # noqa: S101 - roles.holders
    return roles.root_of(
        holding,
        charter.release.signatures,
        online,
        consortium=view.consortium,
        version=before.version + 1 if before is not None else 1,
        expires=expires,
    )


def kept(view: View, current: dict[str, tuple[str, int]]) -> dict[str, tuple[str, int]]:
    """Targets of releases that are published and in force; those of revoked ones go."""
    in_force = {name for name, each in view.releases.items() if each.revoked is None}
    return {path: each for path, each in current.items() if path.partition("/")[0] in in_force}


def targets_of(
    facts: Facts, known: Mapping[str, tuple[str, int]], made: Mapping[str, bytes]
) -> dict[str, tuple[str, int]]:
    """Target path → hash and length, of what is of the state and what was made for the release."""
    every = {**known, **{path: (canonical.sha256(data), len(data)) for path, data in made.items()}}
    return {f"{facts.release}/{path}": each for path, each in every.items()}


def read(path: Path, most: int = roles.MAX_METADATA_BYTES) -> bytes:
    """A file of a draft. Raises `ReleaseError` where there is none that can be read."""
    try:
        return files.read_limited(path, most, follow_symlinks=False)
    except OSError as e:
        raise ReleaseError(
            f"the draft has no {path.parent.name}/{path.name}: {e.strerror}",
            hint="have the operator copy the whole folder anew",
        ) from e
