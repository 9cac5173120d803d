"""A dataset is withdrawn at its node: the mark first, then all that follows from it. Called by the owner.

Every step may be repeated, and a call that was cut short is finished by the next one. From the mark on
nothing is trained on the dataset; from the list of manifests on, which the agent reads, nothing that was
trained on it is sent.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tapestry.catalog.withdrawal import Withdrawn
from tapestry.errors import InputError, NotFound, TapestryError
from tapestry.host import files
from tapestry.node import lines
from tapestry.node.held import Held
from tapestry.node.home import Home, parse_round_name
from tapestry.node.member import local_now
from tapestry.node.touched import Touched, touched
from tapestry.protocol.messages import Time
from tapestry.training.shelf import Shelf
from tapestry.training.spool import TrainResult
from tapestry.training.withdrawals import Withdrawals, read

MAX_REASON: Final = 500
MAX_RESULT_BYTES: Final = 16 << 10


@dataclass(frozen=True, kw_only=True)
class Revoked:
    """What was done."""

    mark: Withdrawn
    anew: bool
    """Whether it was withdrawn by this call, and not before."""
    manifests: tuple[str, ...]
    kept: tuple[str, ...]
    """Rounds whose folder at this node was trained on it: inner state, and a delta that has not left."""
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
        NotFound: this node has neither a card of that name nor trained on such a dataset.
        InputError: the reason is too long, or has control characters.
        SettingsError: no node's home.
        FormatError: its ledger cannot be read; the dataset is withdrawn by then.
    """
    home.check()
    if len(reason) > MAX_REASON or not reason.isprintable():
        raise InputError(f"a reason is one line of at most {MAX_REASON} characters")
    withdrawals = Withdrawals(home.root)
    mark, anew = _marked(home, withdrawals, name, reason, local_now())
    manifests = tuple(withdrawals.manifests(name, frozenset(mark.roots)))
    Held(home).add(manifests)
    found, why = Touched(), None
    try:
        found = touched(home, frozenset(manifests))
    except InputError as e:
        why = e.message
    return Revoked(
        mark=mark,
        anew=anew,
        manifests=manifests,
        kept=_kept(home, frozenset(manifests)),
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
        raise NotFound(
            f"the node in {home.root} has no dataset {name}, and has trained on none of that name",
            hint=f"see its datasets with: tapestry catalog list --home {home.root}",
        )
    roots = set().union(*seen.values(), before.roots if before is not None else ())
    with suppress(TapestryError):  # a card that is none is trained on by nobody; its name is enough
        roots |= {shelf.read(name).card.content.root} if has_card else set()
    mark = before or Withdrawn(dataset=name, at=now, reason=reason)
    mark = mark.model_copy(update={"roots": tuple(sorted(roots))})
    if mark != before:
        withdrawals.put(mark)
    return mark, before is None


def _kept(home: Home, manifests: frozenset[str]) -> tuple[str, ...]:
    found = []
    for folder in home.outputs.iterdir() if home.outputs.is_dir() else ():
        if (named := parse_round_name(folder.name)) is None:
            continue
        try:
            result = TrainResult.from_bytes(files.read_limited(folder / "result.json", MAX_RESULT_BYTES))
        except (OSError, TapestryError):
            continue
        if result.data_manifest in manifests:
            found.append(named)
    return tuple(f"{run}.{number}" for run, number in sorted(found))


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
