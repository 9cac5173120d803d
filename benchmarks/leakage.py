"""What shared bases and updates tell of the text they were trained on: membership inference, canary exposure.

Members train a small model by the system's own inner loop, encoding and merge (`parity.simulate`), for equal
tokens: once through much text, or many times through little; with updates after few steps or many, dense or
sparse. Documents are dealt at random to members, to an attacker who trains a reference on them, and to
nobody.

Each trial is kept as JSON below the temporary folder, so a measurement that was stopped goes on.
`python -m benchmarks.leakage PICTURE.png` draws what is kept.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.leakage_text import FULL, LEARNING_RATE, MEMBERS, QUICK, SEQUENCES, WINDOW, Size
from benchmarks.leakage_trials import gather
from benchmarks.machine import scratch
from benchmarks.report import Report, Settings

NOT_SHOWN: Final = (
    "Models of a tenth of a million parameters, a million tokens: small ones, early in training. "
    "What larger models memorize, and with more training, was not measured here; published work finds that "
    "it grows with both.",
    "The strongest attacks. One reference model and no shadow models (LiRA, RMIA); no attack that puts the "
    "updates of many rounds together; no reconstruction of text from an update's values.",
    "Windows count as independent. Those of one document are not, so true intervals are wider.",
    "One language, one kind of text, one seed.",
)


def measure(settings: Settings) -> Report:
    report = Report(what="leakage", title="What bases and updates tell of their text", not_shown=NOT_SHOWN)
    size = QUICK if settings.quick else FULL
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with scratch() as folder:
            found = gather(settings.corpora, size, folder)
    finally:
        torch.set_num_threads(before)
    _tables(report, size, found)
    return report


def _percent(figure: Mapping[str, float]) -> str:
    return f"{100 * figure['value']:.1f} % ({100 * figure['low']:.1f}–{100 * figure['high']:.1f})"


def _plain(figure: Mapping[str, float], digits: int = 2) -> str:
    return f"{figure['value']:.{digits}f} ({figure['low']:.{digits}f}–{figure['high']:.{digits}f})"


def _tables(report: Report, size: Size, found: dict[str, Any]) -> None:
    trials = found["trials"]
    report.section(
        "Membership inference",
        f"Windows of {WINDOW} bytes. True-positive rate at 1 % false positives, interval of 95 % in brackets "
        "(exact, of both samples); AUC below. *Base*: the last one, against a reference model of the "
        f"attacker's with as many tokens of other documents of the same source. *Update*: of {size.senders} "
        "members in rounds spread over the run; the score is what the update lowers a window's loss by, with "
        "no reference but the base before it. *Its model, with the reference*: base less update against the "
        f"attacker's reference. {len(MEMBERS)} members, {trials[0]['parameters']} parameters, "
        f"{size.windows * len(MEMBERS) * WINDOW} tokens in each trial, learning rate {LEARNING_RATE:g}, "
        f"{SEQUENCES} sequences a step and member.",
    )
    rows = []
    for one in trials:
        attack = one["base"]["attack"]
        rows.append(
            (
                one["times"],
                one["steps"],
                one["codec"],
                f"{one['bits_per_byte']:.2f}",
                _percent(attack["true_positives"]),
                _plain(attack["area"]),
                _percent(one["update"]["true_positives"]),
                _plain(one["update"]["area"]),
                _percent(one["update_reference"]["true_positives"]),
            )
        )
    report.table(
        (
            *("text passed", "H", "updates", "bits a byte", "base", "base, AUC", "update", "update, AUC"),
            "its model, with the reference",
        ),
        rows,
    )
    counts = {
        (one["times"], one["steps"]): (
            f"{one['base']['attack']['members']} and {one['base']['attack']['non_members']}",
            f"{one['update']['members']} and {one['update']['non_members']} of {one['updates']}",
        )
        for one in trials
    }
    report.paragraph(
        "Windows trained on and not: "
        + "; ".join(f"{t}×, H {h}: base {a}, updates {b}" for (t, h), (a, b) in counts.items())
        + "."
    )
    _controls(report, size, found)
    _exposures(report, trials)


def _controls(report: Report, size: Size, found: dict[str, Any]) -> None:
    report.section(
        "Controls",
        f"*Overfitted*: {size.overfit} windows, {size.overfit_times} times each; must be found. *Untrained*: "
        "random weights on the same windows as each base; must be at 1 %. *Blind*: what the attacker's "
        "reference alone tells of which text is whose; must be at an AUC of 0.5, else the samples differ. "
        "*Another member's update*: on windows that it was not trained on, and another was; must be at 1 %.",
    )
    control, rows = found["control"], []
    rows.append(("overfitted", _percent(control["true_positives"]), _plain(control["area"])))
    for one in found["trials"]:
        if one["codec"] == "dense" and one["steps"] == found["trials"][0]["steps"]:
            name, base = f"text passed {one['times']}×", one["base"]
            untrained = base["untrained"]
            rows.append(
                (f"untrained, {name}", _percent(untrained["true_positives"]), _plain(untrained["area"]))
            )
            rows.append((f"blind, {name}", "", _plain(base["attack"]["blind"])))
            alone = base["alone"]
            rows.append((f"no reference, {name}", _percent(alone["true_positives"]), _plain(alone["area"])))
    for one in found["trials"]:
        if (other := one.get("other_update")) is not None:
            name = f"another member's update, text passed {one['times']}×, H {one['steps']}"
            rows.append((name, _percent(other["true_positives"]), _plain(other["area"])))
    report.table(("control", "TPR at 1 % FPR", "AUC"), rows)


def _exposures(report: Report, trials: list[dict[str, Any]]) -> None:
    one = trials[0]["canaries"]
    report.section(
        "Canary exposure",
        f"{one['count']} canaries of the form `tapestry node canaries plant` writes, each among candidates "
        "with another word at its end; bits of the last base, mean with its interval and the highest. At "
        f"most {one['most']:.1f}; {one['chance']:.2f} by chance. *Not planted*: as many that no text holds.",
    )
    rows = [
        (
            each["times"],
            each["steps"],
            each["codec"],
            _plain(each["canaries"]["mean"]),
            f"{each['canaries']['highest']:.1f}",
            _plain(each["not_planted"]["mean"]),
        )
        for each in trials
    ]
    report.table(("text passed", "H", "updates", "exposure", "highest", "not planted"), rows)


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """True-positive rate by steps a round, of bases and of updates."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "leakage"
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(8, 4.2), dpi=150, layout="constrained")
    left, right = picture.subplots(1, 2, sharey=True)
    for axes, key, title in ((left, "base", "shared base"), (right, "update", "single updates")):
        for times, colour in zip(
            sorted({one["times"] for one in found}), ("#2a6fbb", "#c0392b"), strict=True
        ):
            dense = sorted(
                (one for one in found if one["times"] == times and one["codec"] == "dense"),
                key=lambda one: one["steps"],
            )
            rates = [
                (one["base"]["attack"] if key == "base" else one["update"])["true_positives"] for one in dense
            ]
            values = [100 * rate["value"] for rate in rates]
            reach = [
                [100 * (rate["value"] - rate["low"]) for rate in rates],
                [100 * (rate["high"] - rate["value"]) for rate in rates],
            ]
            said = "text passed once" if times == 1 else f"text passed {times} times"
            axes.errorbar(
                [one["steps"] * (0.97 if times == 1 else 1.03) for one in dense],
                values,
                reach,
                color=colour,
                marker="o",
                capsize=3,
                label=said,
            )
        axes.axhline(1, color="#8a8a8a", linestyle="--", linewidth=1, label="by chance")
        axes.set_xscale("log")
        axes.set_xticks([one["steps"] for one in dense], [str(one["steps"]) for one in dense])
        axes.minorticks_off()
        axes.set_xlabel("H, steps a round")
        axes.set_title(title)
        axes.set_ylim(bottom=0)
    left.set_ylabel("true positives at 1 % false positives, %")
    left.legend(frameon=False)
    picture.savefig(path)


if __name__ == "__main__":
    newest = max((Path(tempfile.gettempdir()) / "tapestry-leakage").iterdir(), key=os.path.getmtime)
    kept = [json.loads(each.read_text()) for each in sorted(newest.glob("[0-9]*.json"))]
    draw(kept, Path(sys.argv[1]))
