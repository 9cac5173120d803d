"""What several commands read of a core's home."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tapestry.errors import InputError, NotFound
from tapestry.rounds.events import ARRIVED, Arrived, RoundClosed, ScorePublished, parse_event

if TYPE_CHECKING:
    from tapestry.core.service import Core
    from tapestry.protocol.views import RoundRecord


PLAN_HINT: Final = "plan one with: tapestry run plan PLAN.toml --core HOME"


def choose_run(names: Sequence[str], given: str | None, *, where: object, none_yet: str = PLAN_HINT) -> str:
    """The run that was named, or the only one there is; `none_yet` is the hint where there is none.

    Raises:
        NotFound: there is no such run, or none at all.
        InputError: there are several and none was named.
    """
    if given is not None:
        if given not in names:
            known = f"runs here: {', '.join(names)}" if names else "there is no run yet"
            raise NotFound(f"{where} has no run {given!r}", hint=known)
        return given
    if not names:
        raise NotFound(f"{where} has no run yet", hint=none_yet)
    if len(names) > 1:
        raise InputError(f"{where} has {len(names)} runs", hint=f"name one with --run: {', '.join(names)}")
    return names[0]


def scores(core: Core, run: str) -> dict[str, dict[int, float]]:
    """Node → merges → bits per byte of that shared base on the node's valid text."""
    found: dict[str, dict[int, float]] = {}
    for merges in range(core.runs.standing(run).state.merges + 1):
        for entry in core.journal.of_round(run, merges, "score-published"):
            event = parse_event(entry.type, entry.body)
            if isinstance(event, ScorePublished):
                found.setdefault(event.node, {})[event.merges] = event.bits_per_byte
    return found


def merged_tokens(core: Core, run: str) -> dict[str, int]:
    """Node → tokens of its contributions that were merged."""
    found: dict[str, int] = {}
    for number in range(1, core.runs.standing(run).state.last_round + 1):
        tokens: dict[str, tuple[str, int]] = {}
        for entry in core.journal.of_round(run, number, *ARRIVED, "round-closed"):
            event = parse_event(entry.type, entry.body)
            if isinstance(event, Arrived):
                tokens[event.contribution] = (event.node, event.tokens)
            elif isinstance(event, RoundClosed):
                for merged in event.merged:
                    node, count = tokens[merged.contribution]
                    found[node] = found.get(node, 0) + count
    return found


def records(core: Core, run: str) -> list[RoundRecord]:
    """Records of the committed rounds."""
    from tapestry.core.views import round_record

    found = []
    for each in range(1, core.runs.standing(run).state.last_round + 1):
        if core.journal.of_round(run, each, "round-committed"):
            found.append(round_record(core.journal, core.store, run, each))
    return found
