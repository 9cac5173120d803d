"""Lineage as a tree: bases, what was made of them, and what was carried over; as text and as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tapestry.errors import InputError
from tapestry.host import files
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Lineage
from tapestry.sovereign.port.carry import PARENTS

LEVELS: Final = ("global", "regional", "national", "entity")
COLOURS: Final = {"global": "#4477aa", "regional": "#228833", "national": "#ccbb44", "entity": "#ee6677"}
_MAX_SHOWN: Final = 500


@dataclass(frozen=True, kw_only=True)
class Made:
    """A derivative, from a lineage or from a record of it.

    Args:
        key: digest of its lineage.
        base: hash over the tensors of the base it stands on; None where it is not shown.
        base_name: for people.
        parent: digest of the lineage it was carried over from.
        stages: kinds, in order.
    """

    key: str
    name: str
    owner: str
    level: str | None
    base: str | None
    base_name: str
    parent: str | None
    stages: tuple[str, ...]

    @classmethod
    def of(cls, lineage: Lineage) -> Made:
        return cls(
            key=lineage.digest,
            name=lineage.name,
            owner=lineage.owner,
            level=lineage.level,
            base=lineage.base.weights,
            base_name=base_name(lineage.base.run, lineage.base.round, lineage.base.weights),
            parent=lineage.parent.lineage if lineage.parent is not None else None,
            stages=tuple(stage.kind for stage in lineage.stages),
        )

    @property
    def label(self) -> str:
        return f"{self.owner}/{self.name}"


@dataclass(kw_only=True)
class Node:
    """A place in the tree: a base, or a derivative."""

    label: str
    note: str
    level: str | None
    below: list[Node] = field(default_factory=list)


def base_name(run: str | None, number: int | None, weights: str | None) -> str:
    if run is not None:
        return f"{run}, round {number}" if number is not None else run
    return f"base {weights[:12]}" if weights else "a base that is not shown"


def collect(folders: Iterable[Path]) -> list[Made]:
    """Of builds' folders, with all that theirs were carried over from. Raises `InputError`."""
    found: dict[str, Made] = {}
    for folder in folders:
        paths = [BuildHome(folder).lineage, *sorted((folder / PARENTS).glob("*.json"))]
        for path in paths:
            made = Made.of(Lineage.load(path))
            found[made.key] = made
    return list(found.values())


def roots(made: Iterable[Made]) -> list[Node]:
    """The tree: each base with what stands on it; what was carried over hangs where it came from.

    Raises:
        InputError: too many to show.
    """
    known = {each.key: each for each in made}
    if len(known) > _MAX_SHOWN:
        raise InputError(f"{len(known)} derivatives are too many for a tree", hint="name some of them")
    nodes = {key: _node(each, known) for key, each in known.items()}
    bases: dict[str, Node] = {}
    for key, each in sorted(known.items(), key=lambda item: (_depth(item[1].level), item[1].label, item[0])):
        above = nodes.get(each.parent or "")
        if above is None or _circular(each, known):
            place = each.base or ""
            above = bases.setdefault(place, Node(label=each.base_name, note="base", level=None))
        above.below.append(nodes[key])
    return [bases[place] for place in sorted(bases, key=lambda place: bases[place].label)]


def _node(each: Made, known: dict[str, Made]) -> Node:
    parent = known.get(each.parent or "")
    onto = f", onto {each.base_name}" if parent is not None and parent.base != each.base else ""
    how = " + ".join(each.stages) or "no stage shown"
    return Node(label=each.label, note=f"{each.level or 'level not shown'}; {how}{onto}", level=each.level)


def _circular(each: Made, known: dict[str, Made]) -> bool:
    """Whether parents lead back to it: only records that somebody made up do."""
    seen, at = {each.key}, each
    while at.parent in known:
        if at.parent in seen:
            return True
        seen.add(at.parent)
        at = known[at.parent]
    return False


def _depth(level: str | None) -> int:
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def lines(tree: Iterable[Node]) -> Iterator[str]:
    """As text, a line each."""
    for root in tree:
        yield f"{root.label}  ({root.note})"
        yield from _below(root, "")


def _below(node: Node, before: str) -> Iterator[str]:
    for number, each in enumerate(node.below):
        last = number == len(node.below) - 1
        yield f"{before}{'└── ' if last else '├── '}{each.label}  ({each.note})"
        yield from _below(each, before + ("    " if last else "│   "))


def picture(tree: list[Node], path: Path) -> None:
    """An SVG or PNG, by the ending. Raises `InputError` for another one."""
    if path.suffix not in (".svg", ".png"):
        raise InputError(f"{path} ends neither in .svg nor in .png", hint="say: --picture tree.svg")
    from io import BytesIO

    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    placed = list(_placed(tree))
    width = 3.2 * (1 + max((depth for _, depth, _, _ in placed), default=0))
    figure, axes = pyplot.subplots(figsize=(max(4.0, width), max(1.5, 0.55 * len(placed))))
    try:
        for node, depth, row, above in placed:
            _draw(axes, node, depth, row, above)
        axes.set_xlim(-0.1, width / 3.2)
        axes.set_ylim(-len(placed) + 0.3, 0.7)
        axes.axis("off")
        with BytesIO() as data:
            figure.savefig(
                data, format=path.suffix[1:], bbox_inches="tight", dpi=150, metadata=_PLAIN[path.suffix]
            )
            files.write_atomic(path, data.getvalue())
    finally:
        pyplot.close(figure)


_PLAIN: Final[dict[str, dict[str, Any]]] = {".svg": {"Date": None}, ".png": {"Software": None}}
"""So that a picture of the same tree has the same bytes."""


def _placed(tree: list[Node]) -> Iterator[tuple[Node, int, int, int | None]]:
    """Node, column, row, and the row of the one above it."""
    row = 0
    stack: list[tuple[Node, int, int | None]] = [(node, 0, None) for node in reversed(tree)]
    while stack:
        node, depth, above = stack.pop()
        yield node, depth, row, above
        stack += [(each, depth + 1, row) for each in reversed(node.below)]
        row += 1


def _draw(axes: Any, node: Node, depth: int, row: int, above: int | None) -> None:
    if above is not None:
        axes.plot([depth - 0.95, depth - 0.95, depth], [-above, -row, -row], color="#999999", lw=1, zorder=0)
    colour = COLOURS.get(node.level or "", "#bbbbbb")
    axes.scatter([depth], [-row], s=60, color=colour, zorder=1)
    # Names may hold what matplotlib would take for mathematics.
    axes.text(
        depth + 0.04, -row + 0.06, node.label.replace("$", r"\$"), va="bottom", fontsize=9, weight="bold"
    )
    axes.text(depth + 0.04, -row - 0.06, node.note.replace("$", r"\$"), va="top", fontsize=7, color="#555555")
