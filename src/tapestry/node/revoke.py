"""A dataset is withdrawn at its node: the mark first, then all that follows from it. Called by the owner.

Every step may be repeated, and a call that was cut short is finished by the next one. From the mark on
nothing is trained on the dataset; from the list of manifests on, which the agent reads, nothing that was
trained on it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tapestry.catalog.withdrawal import Withdrawn
from tapestry.errors import Busy, InputError, NotFound, TapestryError
from tapestry.host import files
from tapestry.node import lines, settings
from tapestry.node.held import Held
from tapestry.node.home import Home, parse_round_name
from tapestry.node.member import local_now
from tapestry.node.touched import Touched, touched
from tapestry.protocol.messages import Time
from tapestry.training import stale
from tapestry.training.home import TrainerHome
from tapestry.training.shelf import Shelf
from tapestry.training.spool import TrainResult
from tapestry.training.withdrawals import Withdrawals, read

LOCK: Final = "withdrawing.lock"
"""In state/: one call at a time writes marks and what is held back."""
PATIENCE_S: Final = 60.0
MAX_REASON: Final = 500
MAX_RESULT_BYTES: Final = 16 << 10


@dataclass(frozen=True, kw_only=True)
class Revoked:
    """What was done."""

    mark: Withdrawn
    anew: bool
    """Whether it was withdrawn by this call, and not before."""
    manifests: tuple[str, ...]
    """Data manifests that name it."""
    lost: tuple[str, ...]
    """Data manifests of this node that are not here any more, or name no dataset: they count as withdrawn."""
    kept: tuple[str, ...]
    """Rounds whose folder at this node was trained on it, or went on from such a round: inner state, and a
    delta that has not left."""
    removed: stale.Removed | None
    """Of its tokens; None where a trainer is at work, and may be reading them."""
    touched: Touched
    ledger: str | None
    """Why nothing is known of runs, if so."""
    listing: str
    """What the consortium was told: `never published`, `taken back`, or why it could not be told."""


def revoke(
    home: Home, name: str, *, reason: str = "", tell: bool = True, core_url: str | None = None
) -> Revoked:
    """Withdraw a dataset.

    Args:
        home: of a node that has, or had, a card of it.
        name: of the dataset.
        reason: for people; stays at this node. Of a dataset that was withdrawn before the first one stays.
        tell: take a published entry of the catalog back.
        core_url: where the core listens, if elsewhere than joined.

    Raises:
        NotFound: this node has neither a card of that name nor trained on such a dataset, as far as it knows.
        InputError: the reason is too long, or has control characters.
        SettingsError: no node's home.
        Busy: another call has been at it for a minute.
        FormatError: its ledger cannot be read; the dataset is withdrawn by then.
    """
    home.check()
    if len(reason) > MAX_REASON or not reason.isprintable():
        raise InputError(f"a reason is one line of at most {MAX_REASON} characters")
    home.state.mkdir(parents=True, exist_ok=True)
    lock = files.Lock(home.state / LOCK)
    lock.wait(PATIENCE_S)
    try:
        withdrawals, held = Withdrawals(home.root), Held(home)
        mark, anew = _marked(home, withdrawals, name, reason, local_now())
        manifests = frozenset(withdrawals.manifests(name, frozenset(mark.roots)))
        lost = set(_lost(home, withdrawals))
        kept = _kept(home, withdrawals, manifests)
        held.add(manifests | lost, kept.values())
        removed = _without_tokens(home, name, manifests)
        found, why = _touched(home, withdrawals, manifests, lost)
        held.add(lost)
    finally:
        lock.release()
    return Revoked(
        mark=mark,
        anew=anew,
        manifests=tuple(sorted(manifests)),
        lost=tuple(sorted(lost)),
        kept=tuple(f"{run}.{number}" for run, number in sorted(kept)),
        removed=removed,
        touched=found,
        ledger=why,
        listing=_take_back(home, name, core_url) if tell else "not told",
    )


def _marked(
    home: Home, withdrawals: Withdrawals, name: str, reason: str, now: Time
) -> tuple[Withdrawn, bool]:
    shelf, path = Shelf.of_node(home.root), withdrawals.path(name)
    has_card = shelf.path(name).exists()
    seen = withdrawals.manifests(name)
    before = read(path) if path.exists() else None
    if not has_card and not seen and before is None:
        raise _unknown(home, name, len(list(_lost(home, withdrawals))))
    roots = set().union(*seen.values(), before.roots if before is not None else ())
    with suppress(TapestryError):  # a card that is none is trained on by nobody; its name is enough
        roots |= {shelf.read(name).card.content.root} if has_card else set()
    mark = before or Withdrawn(dataset=name, at=now, reason=reason)
    mark = mark.model_copy(update={"roots": tuple(sorted(roots))})
    if mark != before:
        withdrawals.put(mark)
    return mark, before is None


def _unknown(home: Home, name: str, lost: int) -> NotFound:
    said = f"the node in {home.root} has no dataset {name}, and has trained on none of that name"
    if not lost:
        return NotFound(said, hint=f"see its datasets with: tapestry catalog list --home {home.root}")
    manifests = "1 data manifest" if lost == 1 else f"{lost} data manifests"
    return NotFound(
        f"{said} that it knows of: {manifests} of its rounds cannot be read in {home.cache}",
        hint=f"from a copy of this folder put its card back as {Shelf.of_node(home.root).path(name)}, or "
        "those manifests; then the same again",
    )


def _lost(home: Home, withdrawals: Withdrawals) -> Iterator[str]:
    """Of what was trained here and may still be sent: data manifests that nobody can read any more."""
    every = (*_finished(home).values(), *_passed(home))
    for manifest in {each.data_manifest for each in every if each.delta is not None}:
        if not withdrawals.datasets(manifest):
            yield manifest


def _kept(home: Home, withdrawals: Withdrawals, manifests: frozenset[str]) -> dict[tuple[str, int], str]:
    """The delta of each round here that has something of text with these data manifests, or with lost ones:
    its own, or of rounds before it."""
    trainers, found = TrainerHome(home.root), {}
    for (run, number), result in _finished(home).items():
        every = trainers.holds_of(run, number) if result.delta is not None else ()
        if result.delta is not None and any(m in manifests or not withdrawals.datasets(m) for m in every):
            found[run, number] = result.delta
    return found


def _finished(home: Home) -> dict[tuple[str, int], TrainResult]:
    """What the trainer made, by run and round, as far as it is still here."""
    found = {}
    for folder in home.outputs.iterdir() if home.outputs.is_dir() else ():
        if (named := parse_round_name(folder.name)) is not None:
            with suppress(OSError, TapestryError):
                found[named] = _read(folder / "result.json")
    return found


def _passed(home: Home) -> Iterator[TrainResult]:
    """What the gate let pass."""
    for path in home.egress.glob("*.json"):
        if parse_round_name(path.stem) is not None:
            with suppress(OSError, TapestryError):
                yield _read(path)


def _read(path: Path) -> TrainResult:
    return TrainResult.from_bytes(files.read_limited(path, MAX_RESULT_BYTES))


def _touched(
    home: Home, withdrawals: Withdrawals, manifests: frozenset[str], lost: set[str]
) -> tuple[Touched, str | None]:
    """What descends from it, or why nothing is known; `lost` grows by what this node's contributions name."""
    own, known = "", set(manifests)
    with suppress(TapestryError):  # settings that are wrong do not keep anything from being withdrawn
        own = settings.load(home).node.name

    def counts(node: str, manifest: str) -> bool:
        if node == own and manifest not in known:
            known.add(manifest)
            if not withdrawals.datasets(manifest):
                lost.add(manifest)
        return manifest in manifests or manifest in lost

    try:
        return touched(home, counts), None
    except InputError as e:
        return Touched(), e.message


def _without_tokens(home: Home, name: str, manifests: frozenset[str]) -> stale.Removed | None:
    """Take its tokens out of the cache, unless a trainer is at work."""
    lists = stale.files_of(home.cache, manifests)
    with suppress(TapestryError):
        lists.add(stale.list_of(Shelf.of_node(home.root).read(name).card.files))
    try:
        with files.Lock(TrainerHome(home.root).lock):
            removed = stale.take_out(home.cache, lists)
    except Busy:
        return None
    removed.erase()
    return removed


def _take_back(home: Home, name: str, core_url: str | None) -> str:
    published = any(
        (line.get("kind"), line.get("name")) == ("catalog-entry", name)
        for line in lines.read(home.egress_messages)
    )
    if not published:
        return "never published"
    from tapestry.node import listing  # an HTTP client, which all else here need not wait for

    try:
        listing.publish(home, (), take_back=(name,), core_url=core_url)
    except TapestryError as e:
        return f"still published: {e.message}"
    return "taken back"
