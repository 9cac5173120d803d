"""All targets."""

from __future__ import annotations

from tests.fuzz.target import Target
from tests.fuzz.targets import (
    bundles,
    catalog,
    charters,
    client,
    codecs,
    core,
    council,
    folders,
    messages,
    papers,
    plans,
    releases,
    replica,
    signed,
)

ALL: dict[str, Target] = {
    target.name: target
    for room in (
        messages,
        codecs,
        signed,
        replica,
        client,
        core,
        folders,
        plans,
        catalog,
        bundles,
        charters,
        papers,
        releases,
        council,
    )
    for target in room.TARGETS
}
