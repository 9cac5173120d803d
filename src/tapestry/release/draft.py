"""A draft: what holders are asked to sign, as a folder of files that is handed round.

    draft.json            what it is about
    current/root.json, current/targets.json    what is published now; neither before the first release
    new/targets.json, new/root.json            to be signed; the latter where holders or keys change
    new/releases.json     the list of releases, a target
    model/                the release, file by file
    catalog.jsonl         what members list of their datasets; for the holders, not published
    leakage.jsonl         nodes' leakage reports, as they have signed them; for the holders too
    signatures/MEMBER.json    what each holder sends back

A holder believes none of it. With a ledger of its own it makes all of it anew, and signs what comes out the
same.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path

from tuf.api.metadata import Metadata

from tapestry.errors import Conflict
from tapestry.host import files
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, Model, State
from tapestry.protocol.layout import Layout
from tapestry.release import card, contents, gates, messages, roles
from tapestry.release.checking import Checked, check
from tapestry.release.contents import Chain
from tapestry.release.derived import (
    CATALOG,
    CURRENT_ROOT,
    CURRENT_TARGETS,
    LEAKAGE,
    MODEL,
    NEW_LIST,
    RENEW_DAYS,
    ROOT,
    SAYS,
    SIGNED,
    TARGETS,
    due,
    kept,
    targets_of,
    written,
)
from tapestry.release.leakage import reports
from tapestry.release.published import LIST, Published
from tapestry.release.view import Facts, View

Read = Callable[[str, int], bytes]


def make(
    folder: Path,
    view: View,
    name: str | None,
    *,
    published: Published | None,
    online: str,
    read: Read,
    write_model: Callable[[State, Path], object],
    catalog: list[bytes],
    leakage: list[bytes],
    now: datetime.datetime,
) -> Checked:
    """Make a draft in a folder that does not exist, whole or not at all.

    Args:
        view: of the ledger.
        name: the release that is new; None to bring list and holders up to date.
        published: what is there now.
        online: the operator's public key.
        read: gives a blob by its hash.
        write_model: writes the Hugging Face directory of a state into a new folder.
        catalog: envelopes of what members list.
        leakage: envelopes of nodes' leakage reports.
        now: this machine's clock.

    Raises:
        Refused: no decision in force is for the release.
        GateNotMet: the charter's gates keep it back.
        Conflict: it is published already, or the folder is there.
    """
    facts = None if name is None else view.accepted(name)
    if facts is not None:
        gates.require(view, facts)
    if folder.exists():
        raise Conflict(f"{folder} exists already", hint="name a folder that does not exist yet")
    current = published.files if published is not None else {}
    if facts is not None and f"{facts.release}/{contents.RELEASE}" in current:
        raise Conflict(f"release {facts.release} is published already")
    temporary = folder.absolute().with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with files.full_disk(folder):
            (temporary / "new").mkdir(parents=True)
            (temporary / SIGNED).mkdir()
            _put(temporary / CATALOG, b"".join(line + b"\n" for line in catalog))
            _put(temporary / LEAKAGE, b"".join(line + b"\n" for line in leakage))
            fresh: dict[str, tuple[str, int]] = {}
            if facts is not None:
                fresh = _model(temporary / MODEL, facts, view, read, write_model, catalog, leakage)
            _metadata(temporary, view, published, online, fresh, now)
            said = messages.Draft(consortium=view.consortium, release=name)
            _put(temporary / SAYS, said.to_bytes())
        files.publish_dir(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return check(folder, view, now)


def _model(
    folder: Path,
    facts: Facts,
    view: View,
    read: Read,
    write_model: Callable[[State, Path], object],
    catalog: list[bytes],
    leakage: list[bytes],
) -> dict[str, tuple[str, int]]:
    """Write the release's files; hash and length by target path."""
    state = State.from_bytes(read(facts.state, State.MAX_BYTES))
    model = Model.from_bytes(read(state.model, Model.MAX_BYTES))
    chain = Chain(
        state=state,
        model=model,
        layout=Layout.from_bytes(read(model.layout, Layout.MAX_BYTES)),
        base=Artifact.from_bytes(read(state.base, Artifact.MAX_BYTES)),
    )
    write_model(state, folder)
    for path, data in chain.texts().items():
        (folder / path).parent.mkdir(exist_ok=True)
        _put(folder / path, data)
    known = {path: contents.hashed(folder / path) for path in chain.paths() - {*contents.WRITTEN}}
    datasets = card.datasets(catalog, facts, view.assembly)
    made = written(facts, chain, known, datasets, reports(leakage, facts, view.assembly))
    for path, data in made.items():
        _put(folder / path, data)
    return targets_of(facts, known, made)


def _metadata(
    folder: Path,
    view: View,
    published: Published | None,
    online: str,
    fresh: dict[str, tuple[str, int]],
    now: datetime.datetime,
) -> None:
    expires = roles.in_days(now, roles.HOLDERS_DAYS)
    before = published.root.signed if published is not None else None
    wanted = due(view, online, expires, before)
    soon = before is not None and before.expires < roles.in_days(now, RENEW_DAYS)
    if before is None or soon or not roles.same_rules(before, wanted):
        _put(folder / ROOT, Metadata(wanted).to_bytes())
    listed = view.listed().to_bytes()
    _put(folder / NEW_LIST, listed)
    left = kept(view, published.files if published is not None else {})
    version = published.targets.signed.version + 1 if published is not None else 1
    table = {**left, **fresh, LIST: (canonical.sha256(listed), len(listed))}
    targets = roles.targets_of(table, version=version, expires=expires)
    _put(folder / TARGETS, Metadata(targets).to_bytes())
    if published is not None:
        (folder / "current").mkdir()
        _put(folder / CURRENT_ROOT, published.root_bytes)
        _put(folder / CURRENT_TARGETS, published.targets_bytes)


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)
