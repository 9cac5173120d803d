"""What the commands of `tapestry release` do: ledger, blobs and repository brought together."""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tapestry.errors import InputError, NotFound, SettingsError
from tapestry.host import files
from tapestry.identity.keys import KeyPair

if TYPE_CHECKING:
    from tapestry.core.service import Core
    from tapestry.protocol.artifact import State
    from tapestry.release.checking import Checked
    from tapestry.release.view import View

MAX_KEY_BYTES: Final = 16 << 10
MAX_ROOT_BYTES: Final = 512_000
PAGE: Final = 1000
_LEAKAGE_HINT: Final = "it is what a node wrote with: tapestry node leakage ./node --signed FILE"
Told = Callable[[int], None]
Progress = Callable[[int, int], None]


def now() -> datetime.datetime:
    """This machine's clock: TUF's dates are held against it, by whoever fetches too."""
    return datetime.datetime.now(datetime.UTC)


def online_key(core: Path, *, make: bool) -> KeyPair:
    """The operator's key for the newest state. Raises `NotFound` where there is none, unless one is to be
    made."""
    from tapestry.core.home import Home
    from tapestry.node.member import read_key

    home = Home(core)
    home.check()
    if not home.release_key.exists():
        if not make:
            raise NotFound(
                f"{core} has no key for a repository of releases",
                hint="it is made by: tapestry release propose --core HOME --repository DIR",
            )
        files.private_write(home.release_key, KeyPair.generate().to_pem())
    return read_key(home.release_key)


def view_of_core(core: Core, told: Told) -> View:
    """The core's own ledger, verified as anybody would."""
    from tapestry.core.proofs import Proofs
    from tapestry.release import view

    return view.read(Proofs(core.journal, core.consortium).lines(core.store), told)


def view_of(where: str, told: Told) -> View:
    """A ledger as `ledger verify` takes it."""
    from tapestry.cli.ledger import opened
    from tapestry.release import view

    with opened(where, None) as (lines, _):
        return view.read(lines, told)


def propose(
    core: Path, name: str | None, repository: Path, out: Path, told: Told, leakage: Sequence[Path] = ()
) -> Checked:
    """A draft of a release, from a core's ledger and blobs."""
    from tapestry.core.service import Core
    from tapestry.release import draft, published

    if leakage and name is None:
        raise InputError("--leakage belongs to a release", hint="name the release that the reports are of")
    given = [_report(path) for path in leakage]
    key = online_key(core, make=True)
    with Core.open(core) as opened:
        view = view_of_core(opened, told)

        def write(state: State, folder: Path) -> None:
            from tapestry.training.export import Lineage, export

            facts = view.facts[str(name)]
            lineage = Lineage(plan=facts.plan.digest, rounds=facts.rounds, members=(), tokens=0)
            export(state, opened.store, folder, lineage)

        return draft.make(
            out,
            view,
            name,
            published=published.load(repository),
            online=key.public_key,
            read=opened.store.read,
            write_model=write,
            catalog=catalog(opened),
            leakage=given,
            now=now(),
        )


def _report(path: Path) -> bytes:
    """A leakage report that its node has signed, in one line. Raises `InputError`."""
    from tapestry.errors import TapestryError
    from tapestry.identity.envelope import Envelope
    from tapestry.release.leakage import MAX_REPORT_BYTES

    try:
        return Envelope.from_bytes(files.read_limited(path, MAX_REPORT_BYTES)).to_bytes()
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror}", hint=_LEAKAGE_HINT) from e
    except TapestryError as e:
        raise InputError(f"{path} is no signed leakage report: {e.message}", hint=_LEAKAGE_HINT) from e


def catalog(core: Core) -> list[bytes]:
    """What members list of their datasets, as they have signed it."""
    from tapestry.storage import listings

    found: list[bytes] = []
    with core.database.reading() as connection:
        while True:
            page, total = listings.DATASETS.page(connection, len(found), PAGE)
            found += page
            if len(found) >= total or not page:
                return found


def sign(
    draft_folder: Path,
    member: Path,
    ledger: str,
    *,
    shown: tuple[str, Path] | None,
    look_only: bool,
    told: Told,
    progress: Progress,
) -> Any:
    """Check a draft against a ledger, and sign it; what was checked, the member and the file written.

    Args:
        shown: the repository as others see it, and a root that the holder trusts.
    """
    from tapestry.node.council import Council
    from tapestry.node.member import load_name
    from tapestry.node.releasing import model_key, release_keys
    from tapestry.release import checking, client, holder

    own = load_name(member).name
    pairs, model = release_keys(member), model_key(member)
    with Council(member) as council:
        consortium = council.consortium
    view = view_of(ledger, told)
    if view.consortium != consortium:
        raise SettingsError(
            f"the ledger is of consortium {view.consortium[:12]}, {own} belongs to {consortium[:12]}",
            hint="give the ledger of your own node: --ledger ./node",
        )
    checked = checking.check(draft_folder, view, now(), progress)
    if shown is not None:
        root = root_bytes(shown[1])
        checking.continues(checked, *client.shown(shown[0], root=root, trust=trust_folder(None, root)))
    if look_only:
        return checked, own, None
    given = holder.signature(checked, own, pairs, model)
    return checked, own, holder.write(checked, given)


def publish(
    draft_folder: Path, core: Path, repository: Path, told: Told, progress: Progress
) -> dict[str, Any]:
    """Publish a draft that enough holders have signed."""
    from tapestry.core.service import Core
    from tapestry.errors import Conflict
    from tapestry.release import checking, holder, published

    key = online_key(core, make=False)
    with Core.open(core) as opened:
        view = view_of_core(opened, told)
    checked = checking.check(draft_folder, view, now(), progress)
    before = published.load(repository)
    if checked.before != (before.targets_bytes if before is not None else None):
        raise Conflict(
            f"{repository} has changed since the draft was made",
            hint=published.CHANGED,
        )
    given = holder.read(checked)
    root, targets, models = holder.collect(checked, given)
    name = checked.facts.release if checked.facts is not None else None
    version = published.write(
        repository,
        before=before,
        root=root,
        targets=targets,
        new_files=checked.sources(),
        signatures={} if name is None else {name: models},
        online=key,
        now=now(),
    )
    charter = view.assembly.governance.charter
    first = (repository / published.METADATA / "1.root.json").read_bytes()
    return {
        "release": name,
        "repository": str(repository),
        "targets": targets.signed.version,
        "timestamp": version,
        "signed": sorted(each.member for each in given),
        "root": hashlib.sha256(first).hexdigest(),
        "public": charter is not None and charter.public.releases == "public",
    }


def root_bytes(path: Path) -> bytes:
    """The root that somebody trusts. Raises `InputError`."""
    try:
        return files.read_limited(path, MAX_ROOT_BYTES)
    except OSError as e:
        raise InputError(
            f"cannot read {path}: {e.strerror}",
            hint="it is the 1.root.json of the repository, got in a way that you trust, not from a mirror",
        ) from e


def trust_folder(given: Path | None, root: bytes) -> Path:
    """Where it is kept what was seen: one place for each root that is trusted."""
    if given is not None:
        return given
    state = os.environ.get("XDG_STATE_HOME")
    base = Path(state) if state else Path.home() / ".local" / "state"
    return base / "tapestry" / "releases" / hashlib.sha256(root).hexdigest()[:32]


def day(text: str | None) -> datetime.datetime | None:
    """A date of the command line, as its last second. Raises `InputError`."""
    if text is None:
        return None
    try:
        found = datetime.date.fromisoformat(text)
    except ValueError as e:
        raise InputError(f"{text!r} is no date", hint="write it as 2027-01-31") from e
    return datetime.datetime.combine(found, datetime.time(23, 59, 59), datetime.UTC)
