"""The end of a demo: table, plot, a sample of text, what left each node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tapestry.cli.demo.result import Result
from tapestry.cli.output import console, human_bytes, human_seconds

if TYPE_CHECKING:
    from rich.console import Console

COLOURS: Final = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7f7f7f",
    "#000000",
    "#b8a000",
)
"""Told apart with any kind of colour vision (Okabe and Ito)."""
LABEL_GAP: Final = 0.042
"""Least distance of two labels at the plot's right edge, as a part of its height."""
ALONE_MARKER: Final = "x"
POOLED_MARKER: Final = "D"
COMPARED: Final[dict[str, Any]] = {
    "linestyle": "none",
    "markersize": 6,
    "markerfacecolor": "none",
    "markeredgewidth": 1.6,
}
"""How the comparison stands at the end of a curve."""


def spread(values: list[float], gap: float) -> list[float]:
    """Places for labels near `values`, at least `gap` apart and in the same order."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    groups: list[tuple[float, list[int]]] = [(values[i], [i]) for i in order]
    merged = True
    while merged:
        merged = False
        for k in range(len(groups) - 1):
            (low, a), (high, b) = groups[k], groups[k + 1]
            if high - low < gap * (len(a) + len(b)) / 2 - 1e-12:
                centre = (low * len(a) + high * len(b)) / (len(a) + len(b))
                groups[k : k + 2] = [(centre, a + b)]
                merged = True
                break
    places = [0.0] * len(values)
    for centre, group in groups:
        for position, i in enumerate(group):
            places[i] = centre + (position - (len(group) - 1) / 2) * gap
    return places


def plot(result: Result, path: Path) -> None:
    """Bits per byte of each shared base, per member, with the bigram line of each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 5.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    lasts: list[float] = []
    members = [m for m in result.members if m.scores]
    for member, colour in zip(members, COLOURS * 9, strict=False):
        merges = sorted(member.scores)
        values = [member.scores[m] for m in merges]
        axes.plot(merges, values, color=colour, marker="o", markersize=4, linewidth=2, clip_on=False)
        if member.bits_per_byte_bigram is not None:
            axes.axhline(
                member.bits_per_byte_bigram, color=colour, linestyle=(0, (2, 3)), linewidth=1, alpha=0.8
            )
        for marker, bits, at in (
            (ALONE_MARKER, member.bits_per_byte_alone, 0.98),  # beside each other, for they are close
            (POOLED_MARKER, member.bits_per_byte_pooled, 1.0),
        ):
            if bits is not None:
                axes.plot([merges[-1] * at], [bits], color=colour, clip_on=False, **COMPARED, marker=marker)
        lasts.append(member.scores[merges[-1]])
    low, high = axes.get_ylim()
    gap = (high - low) * LABEL_GAP
    end = max((max(m.scores) for m in members), default=1)
    for member, colour, last, place in zip(members, COLOURS * 9, lasts, spread(lasts, gap), strict=False):
        axes.annotate(
            f"{member.name}  {last:.2f}",
            xy=(end, last),
            xytext=(end + max(end, 1) * 0.025, place),
            color=colour,
            va="center",
            fontsize=10,
            fontweight="bold",
            annotation_clip=False,
        )
    axes.set_xlim(-0.02 * max(end, 1), end)
    axes.set_ylim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("merges", fontsize=11)
    axes.set_ylabel("bits per byte on the member's own valid text (lower is better)", fontsize=10)
    axes.set_title(
        f"One shared base, {len(result.members)} members, {result.parameters / 1e6:.2f} M parameters",
        fontsize=12,
    )
    axes.plot([], [], color="#444444", marker="o", markersize=4, linewidth=2, label="shared base")
    if any(m.bits_per_byte_bigram is not None for m in members):
        axes.plot(
            [], [], color="#444444", linestyle=(0, (2, 3)), linewidth=1, label="byte bigrams of the member"
        )
    if result.compared:
        axes.plot([], [], color="#444444", **COMPARED, marker=ALONE_MARKER, label="member alone")
        axes.plot([], [], color="#444444", **COMPARED, marker=POOLED_MARKER, label="all text in one place")
    axes.legend(frameon=False, loc="upper right", fontsize=9)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def print_result(result: Result, out: Console | None = None) -> None:
    """For people, on stdout."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = out or console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("member", no_wrap=True)
    bits = ["start", "bigram"] + (["alone", "pooled"] if result.compared else []) + ["base"]
    for title in (*bits, "tokens", "sent", "received"):
        table.add_column(title, justify="right", no_wrap=True, style="bold green" if title == "base" else "")
    for member in result.members:
        values = [member.start, member.bits_per_byte_bigram]
        if result.compared:
            values += [member.bits_per_byte_alone, member.bits_per_byte_pooled]
        table.add_row(
            member.name,
            *(_number(value) for value in (*values, member.base)),
            f"{member.tokens:,}",
            human_bytes(member.bytes_sent),
            human_bytes(member.bytes_received),
        )
    out.print()
    out.print(
        Text.assemble(
            (f"One shared base of {result.parameters:,} parameters", "bold"),
            f" from {len(result.members)} members in {result.rounds} rounds, "
            f"{human_seconds(result.seconds)}{' with the comparison' if result.compared else ''}.",
        )
    )
    out.print(table)
    # Below 80 characters each, so that no terminal breaks them.
    lines = ["start to base: bits per byte of the member's own valid text; lower is better."]
    lines.append("bigram: the best table of byte pairs that the member's own text gives.")
    if result.compared:
        lines.append("alone: trained on the member's own text only, as many steps.")
        lines.append("pooled: trained on all text in one place, as many steps.")
    for line in lines:
        out.print(line, style="dim")
    if result.sovereign is not None:
        _own_model(result.sovereign, out)
    if result.sample:
        out.print("\nA sample of the base:", style="bold")
        for line in result.sample.splitlines() or [""]:
            out.print(f"  {line}", markup=False, style="italic", soft_wrap=True)
    out.print()
    places = [("model", result.export), ("plot", result.plot)]
    if own := result.sovereign:
        places.append(("sovereign", own["export"]))
    places += [(f"left {member.name}", member.egress) for member in result.members]
    width = max(len(name) for name, _ in places)
    for name, path in places:
        out.print(f"{name:<{width}}  {path}", markup=False, soft_wrap=True)
    out.print(f"{'base':<{width}}  sha256 {result.base}", markup=False, soft_wrap=True)
    if kept := result.kept_out:
        out.print("\nKept out of training by its rights:", style="bold")
        out.print(f"  {kept['reason']}, of {kept['member']}", markup=False, soft_wrap=True)
        out.print(f"  needed: {kept['needed']}", markup=False, soft_wrap=True)
    if seen := result.ledger:
        _verification(seen, len(result.members), out)


def _own_model(own: dict[str, Any], out: Console) -> None:
    """What one member made of the base for itself."""
    out.print(f"\nA model of {own['member']}'s own, trained on from the base:", style="bold")
    base, alone = (_percent(own[f"gain_over_{each}"]) for each in ("base", "alone"))
    rows = [
        ("sovereign", f"{own['steps']:,} steps on text that never went to the run"),
        ("base", f"the sovereign model is {base}"),
        ("alone", f"all of its text, as many steps in all; the sovereign model is {alone}"),
    ]
    for name, said in rows:
        bits = own[f"bits_per_byte_{name}"]
        out.print(f"  {name:<9}  {bits:.3f}  {said}", markup=False, soft_wrap=True)
    out.print(f"  talk to it: tapestry chat {own['export']}", markup=False, soft_wrap=True)


def _percent(gain: float) -> str:
    return f"{abs(gain):.1%} {'better' if gain >= 0 else 'worse'}"


def _verification(seen: dict[str, Any], members: int, out: Console) -> None:
    """What was checked without believing the core."""
    out.print("\nVerified from the ledger's bytes:", style="bold")
    each = seen["attestations"] / seen["merges"] if seen["merges"] else 0
    lines = [
        f"{seen['entries']} entries: signatures, deadlines, quorums, weights, and the tree the core signed",
        f"{seen['contributions']} contributions, each signed by its node and counted once",
        f"{seen['merges']} merges, each repeated bit for bit and signed by {each:.3g} of {members} members",
    ]
    if again := seen.get("merges_repeated"):
        all_of_them = again == seen["merges"]
        newest = "all" if all_of_them else f"the newest {again}"
        more = "" if all_of_them else " (every one: tapestry ledger verify)"
        lines.append(f"{newest} of these merges repeated here once more, each the same to the bit{more}")
    for line in lines:
        out.print(f"  {line}", markup=False, soft_wrap=True)
