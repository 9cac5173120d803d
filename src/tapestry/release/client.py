"""Fetching a release, so that neither a mirror nor whoever holds the operator's key can pass off another.

The checks are those of TUF, by its reference client: `tuf.ngclient`. What it has seen it keeps in a folder,
so that an older state, shown later, is found out. Then the files are held against the state that the members
accepted.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater

from tapestry.errors import (
    FormatError,
    InputError,
    IntegrityError,
    NotFound,
    ReleaseError,
    SignatureError,
    Unreachable,
)
from tapestry.host import files
from tapestry.release import contents, holder, oms, roles, sources
from tapestry.release.contents import Progress
from tapestry.release.messages import Listed, ModelSignature, Release, Releases
from tapestry.release.published import LIST, METADATA, SIGNATURES, TARGETS
from tapestry.release.sources import NOT_FOUND, Source
from tapestry.release.view import View

MAX_TEXT_BYTES: Final = 4 << 20
MAX_SIGNATURE_BYTES: Final = 1 << 20
ROOT_FILE: Final = "root.json"
ROOTS: Final = "root_history"
"""Of the library: all roots that were verified, by version."""
ADVICE: Final = {
    "rollback": "this mirror shows an older state than you have seen: fetch from another, and tell the "
    "consortium",
    "freeze": "the mirror was not renewed in time, or hides what is new: fetch from another, or have it "
    "renewed with `tapestry release renew`",
    "threshold": "too few of the holders you trust have signed: fetch from another mirror; if the holders "
    "have changed, the mirror must have every root.json since yours",
    "bytes": "the file is not the one that was signed: fetch from another mirror",
    "endless": "the mirror sends more than was signed: fetch from another",
    "slow": "the mirror holds you up: fetch from another",
    "metadata": "fetch from another mirror",
}
_RULES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (tuf_errors.ExpiredMetadataError, "freeze"),
    (tuf_errors.BadVersionNumberError, "rollback"),
    (tuf_errors.UnsignedMetadataError, "threshold"),
    (tuf_errors.LengthOrHashMismatchError, "bytes"),
    (tuf_errors.DownloadLengthMismatchError, "endless"),
    (tuf_errors.SlowRetrievalError, "slow"),
    (tuf_errors.RepositoryError, "metadata"),
    (DeserializationError, "metadata"),
)
"""In this order: subclasses first."""
_LIBRARY: Final = (tuf_errors.RepositoryError, tuf_errors.DownloadError, DeserializationError)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What came of it.

    Args:
        signed_model: holders whose OpenSSF signature lies beside it and verifies.
        holders: who may sign, and how many must, by the newest list.
    """

    release: Release
    folder: Path
    signed_model: tuple[str, ...]
    holders: tuple[str, ...]
    signatures: int
    bytes: int


def fetch(
    given: str,
    out: Path,
    *,
    root: bytes,
    trust: Path,
    name: str | None = None,
    as_of: datetime.datetime | None = None,
    view: View | None = None,
    progress: Progress = lambda _done, _all: None,
) -> Fetched:
    """Fetch a release into a folder that does not exist yet; whole or not at all.

    Args:
        given: address or folder of a repository.
        root: a root.json that the caller trusts, of any version.
        trust: folder for what was seen; must persist.
        name: of the release; None for the newest in force.
        as_of: instead of this machine's clock; gives up protection against being shown an old state.
        view: of a ledger that the caller has verified; the release is held against it as well.

    Raises:
        Refused: the ledger has no decision in force for it.
        ReleaseError: what is there breaks a rule; `rule` names it.
        NotFound: no such release, or the mirror lacks a file.
        Unreachable: no connection, or it broke off; a further call goes on.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty", hint="name a folder that does not exist yet")
    trust.mkdir(mode=0o700, parents=True, exist_ok=True)
    with files.Lock(trust / ".lock"), closing(sources.open_source(given)) as source, _told(given):
        updater = _updater(source, root, trust, as_of)
        updater.refresh()
        trusted = _trusted(trust)
        listed = _list(updater, source, trust)
        if trusted.unrecognized_fields.get(roles.CONSORTIUM) != listed.consortium:
            raise ReleaseError(
                "the list of releases is of another consortium than the root",
                rule="mix-and-match",
                hint=ADVICE["metadata"],
            )
        release = _release(updater, source, trust, listed, name)
        if view is not None:
            hold_against(release, view)
        return _all(updater, source, trusted, release, out.absolute(), progress)


def releases(given: str, *, root: bytes, trust: Path, as_of: datetime.datetime | None = None) -> Releases:
    """The list of a repository. Errors as of `fetch`."""
    trust.mkdir(mode=0o700, parents=True, exist_ok=True)
    with files.Lock(trust / ".lock"), closing(sources.open_source(given)) as source, _told(given):
        updater = _updater(source, root, trust, as_of)
        updater.refresh()
        return _list(updater, source, trust)


def shown(given: str, *, root: bytes, trust: Path) -> tuple[bytes, bytes]:
    """Root and list of targets that a repository shows, as a holder compares them with those of a draft.
    Errors as of `fetch`."""
    trust.mkdir(mode=0o700, parents=True, exist_ok=True)
    with files.Lock(trust / ".lock"), closing(sources.open_source(given)) as source, _told(given):
        _updater(source, root, trust, None).refresh()
        return (trust / ROOT_FILE).read_bytes(), (trust / "targets.json").read_bytes()


def hold_against(release: Release, view: View) -> None:
    """Raise unless a release is of the decision, the state and the lineage that a ledger has. Errors as of
    `View.accepted`."""
    facts = view.accepted(release.release)
    of_ledger = {
        "consortium": facts.consortium,
        "decision": facts.decision,
        "sequence": facts.sequence,
        "at": facts.at,
        "charter": facts.charter.digest,
        "run": facts.run,
        "merges": facts.merges,
        "plan": facts.plan.digest,
        "state": facts.state,
    }
    odd = [field for field, value in of_ledger.items() if getattr(release, field) != value]
    if odd:
        raise ReleaseError(
            f"release {release.release} names another {odd[0]} than the ledger",
            rule="ledger",
            hint="do not use it, and show both to the members",
        )


def _updater(source: Source, root: bytes, trust: Path, as_of: datetime.datetime | None) -> Updater:
    try:
        _same_root(root, trust)
        updater = Updater(
            metadata_dir=str(trust),
            metadata_base_url=METADATA,
            target_base_url=TARGETS,
            fetcher=source,
            bootstrap=root,
        )
    except (ReleaseError, tuf_errors.RepositoryError, DeserializationError) as e:
        raise InputError(
            f"the root that is to be trusted is none: {e}",
            hint="give the root.json that the consortium has handed out, unchanged",
        ) from e
    if as_of is not None:
        updater._trusted_set.reference_time = as_of
    return updater


def _same_root(root: bytes, trust: Path) -> None:
    """The folder's memory is of one repository: with the root of another all of it would be dropped."""
    given: Metadata[Any] = roles.parsed(root, Root, "the root")
    known = trust / ROOTS / f"{given.signed.version}.root.json"
    if known.exists() and roles.parsed(known.read_bytes(), Root, known.name).signed != given.signed:
        raise InputError(
            f"{trust} remembers what was seen of a repository with another root",
            hint="one folder for each repository: --trust OTHER; or give the root.json of that one",
        )


def _trusted(trust: Path) -> Root:
    """The newest root that was verified; the library leaves it there."""
    found: Metadata[Any] = roles.parsed((trust / ROOT_FILE).read_bytes(), Root, ROOT_FILE)
    return found.signed  # type: ignore[no-any-return]


def _target(updater: Updater, path: str) -> TargetFile | None:
    return updater.get_targetinfo(path)


def _receive(
    source: Source, target: TargetFile, into: Path, told: Callable[[int], None] = lambda _: None
) -> None:
    """A target, verified; what is wrong is not kept."""
    into.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.receive(f"{TARGETS}/{target.get_prefixed_paths()[0]}", into, target.length, told)
        with into.open("rb") as file:
            target.verify_length_and_hashes(file)
    except (tuf_errors.RepositoryError, tuf_errors.DownloadLengthMismatchError):
        into.unlink(missing_ok=True)
        raise


def _text(source: Source, target: TargetFile, trust: Path) -> bytes:
    """A small target."""
    if target.length > MAX_TEXT_BYTES:
        raise ReleaseError(f"{target.path} has {target.length} bytes", rule="endless", hint=ADVICE["endless"])
    path = trust / "incoming"
    path.unlink(missing_ok=True)
    try:
        _receive(source, target, path)
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def _list(updater: Updater, source: Source, trust: Path) -> Releases:
    target = _target(updater, LIST)
    if target is None:
        raise ReleaseError(f"the repository has no {LIST}", rule="metadata", hint=ADVICE["metadata"])
    return Releases.from_bytes(_text(source, target, trust))


def _release(updater: Updater, source: Source, trust: Path, listed: Releases, name: str | None) -> Release:
    here = {each.release: each for each in listed.releases}

    def there(each: Listed) -> bool:
        return each.revoked is None and _target(updater, f"{each.release}/{contents.RELEASE}") is not None

    if name is None:
        found = [each for each in listed.releases if there(each)]
        if not found:
            raise NotFound("no release is in force in this repository")
        wanted = found[-1]
    else:
        if name not in here:
            known = ", ".join(each.release for each in listed.releases) or "none"
            raise NotFound(f"there is no release {name}", hint=f"accepted so far: {known}")
        wanted = here[name]
    if wanted.revoked is not None:
        raise ReleaseError(
            f"release {wanted.release} was revoked on {wanted.revoked_at} by decision {wanted.revoked[:12]}",
            rule="revoked",
            hint="do not use it any more; ask the consortium why, and what takes its place",
        )
    target = _target(updater, f"{wanted.release}/{contents.RELEASE}")
    if target is None:
        raise NotFound(f"release {wanted.release} is accepted and not published here (yet)")
    release = Release.from_bytes(_text(source, target, trust))
    same = (release.release, release.decision, release.state, release.consortium)
    if same != (wanted.release, wanted.decision, wanted.state, listed.consortium):
        raise ReleaseError(
            f"{wanted.release}/{contents.RELEASE} is of another decision than the list of releases says",
            rule="mix-and-match",
            hint=ADVICE["metadata"],
        )
    return release


def _all(
    updater: Updater, source: Source, trusted: Root, release: Release, out: Path, progress: Progress
) -> Fetched:
    """Receive every file, check the whole, and give the folder its name."""
    temporary = out.with_name(f".{out.name}.{release.decision[:12]}.tmp")
    total = sum(each.bytes for each in release.files)
    with files.full_disk(out):
        temporary.mkdir(parents=True, exist_ok=True)
        done = 0
        for each in release.files:
            target = _target(updater, f"{release.release}/{each.path}")
            if target is None or (target.hashes.get("sha256"), target.length) != (each.sha256, each.bytes):
                raise ReleaseError(
                    f"{release.release}/{each.path} is not signed as {contents.RELEASE} says",
                    rule="mix-and-match",
                    hint=ADVICE["metadata"],
                )
            before = done
            _receive(
                source,
                target,
                temporary / each.path,
                lambda here, before=before: progress(before + here, total),  # type: ignore[misc]
            )
            done += each.bytes
        (temporary / contents.RELEASE).write_bytes(release.to_bytes())
        _only(temporary, release)
        chain, _ = contents.check(temporary, release.state, whole=False)
        if (chain.state.base, chain.state.model, chain.state.merges) != (
            release.base,
            release.model,
            release.merges,
        ):
            raise ReleaseError(f"{contents.RELEASE} names another base than its state", rule="bytes")
        signed = _signatures(source, trusted, release, temporary)
        if out.is_dir():
            out.rmdir()
        files.publish_dir(temporary, out)
    shutil.rmtree(temporary, ignore_errors=True)
    role = trusted.roles["targets"]
    return Fetched(
        release=release,
        folder=out,
        signed_model=signed,
        holders=tuple(sorted(roles.members_of(trusted).values())),
        signatures=role.threshold,
        bytes=total,
    )


def _only(folder: Path, release: Release) -> None:
    """Nothing else lies there, from a fetch that was broken off."""
    known = {each.path for each in release.files} | {contents.RELEASE}
    for path in list(contents.paths(folder)):
        if path not in known:
            (folder / path).unlink()


def _signatures(source: Source, trusted: Root, release: Release, folder: Path) -> tuple[str, ...]:
    """OpenSSF signatures of holders of today, for tools that know no TUF: they add nothing to what was
    checked. What does not verify is left out, since anybody can put such a file onto a mirror."""
    holders = roles.holders_of(trusted)
    digests = {each.path: each.sha256 for each in release.files}
    digests[contents.RELEASE] = release.digest
    found = []
    shutil.rmtree(folder / oms.SIGNATURES, ignore_errors=True)
    for member in sorted({each for each, _ in holders.values()}):
        place = f"{SIGNATURES}/{release.release}/{member}.json"
        try:
            data = source.download_bytes(place, MAX_SIGNATURE_BYTES)
            said = ModelSignature.from_bytes(data)
            own, pem = holder.of_folder(said, release.consortium, holders, digests)
        except (tuf_errors.DownloadError, SignatureError, FormatError, IntegrityError):
            continue
        if (own, said.release) == (member, release.release):
            (folder / oms.SIGNATURES).mkdir(exist_ok=True)
            (folder / oms.SIGNATURES / f"{member}.sig").write_text(said.bundle)
            (folder / oms.SIGNATURES / f"{member}.pub").write_text(pem)
            found.append(member)
    return tuple(found)


@contextmanager
def _told(given: str) -> Iterator[None]:
    """What the library raises, as what it means for who fetches."""
    try:
        yield
    except tuf_errors.DownloadHTTPError as e:
        if e.status_code == NOT_FOUND:
            raise NotFound(
                f"{given} is no whole repository: {e}", hint="look whether the address or the copy is right"
            ) from e
        raise Unreachable(f"{given}: {e}", hint="try again, or another mirror") from e
    except _LIBRARY as e:
        rule = next((rule for kind, rule in _RULES if isinstance(e, kind)), None)
        if rule is None:
            raise Unreachable(f"{given}: {e}", hint="try again: what has come is kept") from e
        raise ReleaseError(
            f"{given} breaks the rule against {_WORDS[rule]}: {e}", rule=rule, hint=ADVICE[rule]
        ) from e


_WORDS: Final = {
    "freeze": "freezing (metadata has run out)",
    "rollback": "rolling back (an older version than was seen)",
    "threshold": "too few signatures",
    "bytes": "other bytes than were signed",
    "endless": "endless files",
    "slow": "slow retrieval",
    "metadata": "metadata that is not what it must be",
}
