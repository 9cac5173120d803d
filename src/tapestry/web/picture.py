"""The N+1 picture: nodes around the base, as shapes that a template draws. No text is made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Final, Literal

from tapestry.protocol.views import NodeStanding, RunView

Stand = Literal[
    "starting", "training", "sent", "accepted", "refused", "late", "overdue", "joining", "waiting", "done"
]
WIDTH: Final = 720
HEIGHT: Final = 440
_LABELLED: Final = 18
"""Of more nodes than this the names stand in the table alone."""
_SENT: Final = frozenset({"sent", "accepted"})


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A node in the picture.

    Args:
        x, y, r: its circle.
        part: of its round that is trained, 0 to 1.
        arc: the path of that part around the circle; "" where it is nothing or all.
        to_x, to_y: where its thread meets the base.
        label_x, label_y, anchor: of its name; "" where it has none.
    """

    node: str
    member: str
    stand: Stand
    part: float
    x: float
    y: float
    r: float
    arc: str
    to_x: float
    to_y: float
    label_x: float
    label_y: float
    anchor: str
    step: int | None
    steps: int | None
    loss: float | None
    tokens_per_s: float | None

    @property
    def moves(self) -> bool:
        """Whether its update is on its way into the base."""
        return self.stand in _SENT


@dataclass(frozen=True, kw_only=True)
class Picture:
    spots: tuple[Spot, ...]
    base_r: float
    counts: dict[str, int]


def draw(view: RunView, members: dict[str, str], now: str) -> Picture:
    """Of a run as it stands.

    Args:
        view: where it stands.
        members: node → member, of all enrolled.
        now: the core's time.
    """
    at = view.current
    standings = {each.node: each for each in at.nodes} if at is not None else {}
    names = sorted(set(members) | set(standings), key=lambda n: (_member(n, members, standings), n))
    overdue = at is not None and at.phase == "training" and bool(now) and at.deadline < now
    spots = []
    for place, name in enumerate(names):
        stand, part = _stand(view, standings.get(name), overdue)
        standing = standings.get(name)
        progress = standing.progress if standing is not None else None
        spots.append(
            _spot(
                *(place, len(names), name, _member(name, members, standings), stand, part),
                step=progress.step if progress else None,
                steps=progress.steps if progress else None,
                loss=progress.loss if progress else None,
                tokens_per_s=progress.tokens_per_s if progress else None,
            )
        )
    counts: dict[str, int] = {}
    for each in spots:
        counts[each.stand] = counts.get(each.stand, 0) + 1
    return Picture(spots=tuple(spots), base_r=_BASE_R, counts=counts)


_BASE_R: Final = 58.0


def _member(node: str, members: dict[str, str], standings: dict[str, NodeStanding]) -> str:
    found = members.get(node)
    return found if found is not None else standings[node].member


def _stand(view: RunView, at: NodeStanding | None, overdue: bool) -> tuple[Stand, float]:
    if view.status == "finished":
        return "done", 1.0
    if view.current is None or at is None:
        return "waiting", 0.0
    match at.status:
        case "committed" | "received":
            return "sent", 1.0
        case "accepted":
            return "accepted", 1.0
        case "refused":
            return "refused", 1.0
        case "late":
            return "late", 1.0
        case None:
            pass
    if not at.expected:
        return "joining", 0.0
    part = at.progress.step / at.progress.steps if at.progress is not None else 0.0
    if overdue:
        return "overdue", min(part, 1.0)
    return ("training", min(part, 1.0)) if at.progress is not None else ("starting", 0.0)


def _spot(
    place: int,
    count: int,
    node: str,
    member: str,
    stand: Stand,
    part: float,
    *,
    step: int | None,
    steps: int | None,
    loss: float | None,
    tokens_per_s: float | None,
) -> Spot:
    angle = -pi / 2 + 2 * pi * place / count + (pi / count if count == 2 else 0.0)
    wide, high = (222.0, 150.0) if count <= _LABELLED else (300.0, 188.0)
    x, y = WIDTH / 2 + wide * cos(angle), HEIGHT / 2 + high * sin(angle)
    r = max(3.0, min(24.0, 2.0 * pi * high / max(count, 1) / 3.0))
    far = ((x - WIDTH / 2) ** 2 + (y - HEIGHT / 2) ** 2) ** 0.5
    to_x = WIDTH / 2 + (x - WIDTH / 2) * _BASE_R / far
    to_y = HEIGHT / 2 + (y - HEIGHT / 2) * _BASE_R / far
    anchor = (
        ""
        if count > _LABELLED
        else "middle"
        if abs(cos(angle)) < 0.3
        else "start"
        if cos(angle) > 0
        else "end"
    )
    below = sin(angle) > 0
    shift = r + 15
    label_x = x if anchor == "middle" else x + (shift if anchor == "start" else -shift)
    label_y = y + (r + 24 if below else -r - 27) if anchor == "middle" else y - 2
    return Spot(
        node=node, member=member, stand=stand, part=part, x=round(x, 1), y=round(y, 1), r=round(r, 1),
        arc=_arc(x, y, r + 5, part), to_x=round(to_x, 1), to_y=round(to_y, 1),
        label_x=round(label_x, 1), label_y=round(label_y, 1), anchor=anchor,
        step=step, steps=steps, loss=loss, tokens_per_s=tokens_per_s,
    )  # fmt: skip


def _arc(x: float, y: float, r: float, part: float) -> str:
    """Clockwise from the top."""
    if not 0.0 < part < 1.0:
        return ""
    angle = 2 * pi * part
    end_x, end_y = x + r * sin(angle), y - r * cos(angle)
    return f"M{x:.1f} {y - r:.1f}A{r:.1f} {r:.1f} 0 {int(part > 0.5)} 1 {end_x:.1f} {end_y:.1f}"


def thinned(rows: Sequence[tuple[float, ...]], most: int) -> list[tuple[float, ...]]:
    """Evenly chosen rows, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    step = (len(rows) - 1) / (most - 1)
    return [rows[round(i * step)] for i in range(most)]
