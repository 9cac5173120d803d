"""`tapestry run estimate`: what a plan would take, for people and for machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tapestry.cli.output import emit_line, emit_pairs, emit_table, human_bytes, human_seconds, note
from tapestry.cli.planfile import PlanFile
from tapestry.errors import PlanError
from tapestry.governance.planner import formulas
from tapestry.governance.planner.estimate import LIMITS, Estimate, MemberEstimate
from tapestry.governance.planner.lacking import Lack
from tapestry.governance.planner.scenario import Scenario
from tapestry.governance.planner.spread import Spread
from tapestry.protocol.layout import Layout

DAY_S: Final = 86_400.0
UNKNOWN: Final = "0" * 64
"""In place of what a plan names by hash, where nothing is drawn yet."""
Shown = Callable[[float], str]


def layout_of(read: PlanFile) -> Layout:
    """Of the plan's model. Raises `ModelError`, and `PlanError` where the plan has none of its own."""
    from tapestry.training.planned import adopted_layout, planned_layout

    table, fragments = read.model, read.streaming.fragments
    if table is None:
        raise PlanError(
            "a plan with an [origin] does not say what model it trains",
            hint="estimate the plan of the run that it repeats",
        )
    if table.add_tokens is not None:
        note("tokens of add_tokens are not counted in the estimate")
    if table.adopt is not None:
        return adopted_layout(Path(table.adopt), table.shard_bytes, fragments)
    return planned_layout(table.config or {}, table.tokenizer, table.shard_bytes, fragments)


def scenario_of(plan: Path, members: Path, calibrate: Sequence[Path]) -> Scenario:
    """Raises `PlanError`, `ModelError`, and as `calibration.recorded`."""
    from tapestry.cli import calibration, membersfile, planfile
    from tapestry.governance.planner.calibrate import calibrate as fit
    from tapestry.governance.planner.rates import DEFAULT

    read, who = planfile.load(plan), membersfile.load(members)
    rates = fit(calibration.recorded(calibrate, who)) if calibrate else DEFAULT
    layout = layout_of(read)
    made = read.plan(model=UNKNOWN, layout=layout.digest, initial_state=UNKNOWN, parameters=layout.elements)
    return Scenario(plan=made, layout=layout, members=who, rates=rates)


# -- for machines -------------------------------------------------------------------------------


def as_json(found: Estimate, missing: Sequence[Lack], scenario: Scenario) -> dict[str, Any]:
    """Everything, seconds and bytes; a range is an object with low, middle and high."""
    value: dict[str, Any] = _plain(_shallow(found))
    value["missing"] = [{**asdict(one), "factor": one.factor} for one in missing]
    value["constants"] = [
        {"name": name, "value": spread.as_json(), "source": source}
        for name, spread, source in formulas.constants(scenario.rates)
    ]
    value["accelerators"] = [
        {"name": name, "peak_flops": peak, "source": source}
        for name, peak, source in formulas.accelerators(scenario.members)
    ]
    value["formulas"] = [
        {"what": one.what, "formula": one.formula, "source": one.source} for one in formulas.FORMULAS
    ]
    return value


def _shallow(value: Any) -> dict[str, Any]:
    """Fields of a dataclass with slots, and what it works out."""
    found = {name: getattr(value, name) for name in value.__dataclass_fields__}
    if hasattr(type(value), "total"):
        found["total"] = value.total
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Spread):
        return value.as_json()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return _plain(_shallow(value)) if hasattr(value, "__dataclass_fields__") else value


# -- for people ---------------------------------------------------------------------------------


def show(found: Estimate, missing: Sequence[Lack], scenario: Scenario, *, with_formulas: bool) -> None:
    """Tables on stdout."""
    plan, currency = scenario.plan, scenario.members.prices.currency
    emit_pairs(
        [
            ("run", plan.run),
            ("model", f"{found.parameters:,} parameters, {found.flops_per_token:.3g} operations a token"),
            ("tokens", f"{found.tokens:.3g}, delivered {ranged(found.delivered_tokens, '{:.3g}'.format)}"),
            ("rounds", f"{found.rounds:,} of {found.steps:,} steps, {found.nodes} nodes"),
            ("constants", _calibrated(scenario)),
        ]
    )
    _show_round(found)
    _show_limits(found)
    _show_members(found.members)
    _show_ways(found)
    _show_run(found, currency)
    if with_formulas:
        _show_formulas(scenario)
    _show_missing(missing, currency)


def _calibrated(scenario: Scenario) -> str:
    rounds = scenario.rates.rounds
    return f"from {rounds} recorded rounds" if rounds else "not calibrated; see --calibrate"


def ranged(spread: Spread | None, shown: Shown) -> str:
    """Middle, and smallest to largest in brackets."""
    if spread is None:
        return "-"
    if spread.low == spread.high:
        return shown(spread.middle)
    return f"{shown(spread.middle)} ({shown(spread.low)} to {shown(spread.high)})"


def seconds(value: float) -> str:
    """As `human_seconds`, in days where there are many."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value / DAY_S:,.1f} days" if value > 3 * DAY_S else human_seconds(value)


def part(value: float) -> str:
    return f"{value:.1%}" if value < 0.995 else f"{value:.2%}"


def amount(value: float) -> str:
    """A count or money, in three digits where it is large."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _show_round(found: Estimate) -> None:
    emit_line("\nA round: middle case, and the best and the worst")
    emit_pairs(
        [
            ("a step", ranged(found.step_s, seconds)),
            ("training", ranged(found.train_s, seconds)),
            ("exchange", ranged(found.exchange_s, seconds)),
            ("if all deliver", ranged(found.period_s, seconds)),
            ("as expected", ranged(found.expected_s, seconds)),
            ("utilisation", ranged(found.utilisation, part)),
        ]
    )


def _show_limits(found: Estimate) -> None:
    emit_line(f"\nWhat limits: a round would be so much shorter without it (slowest node: {found.slowest})")
    ordered = sorted(found.limits.items(), key=lambda item: -item[1].middle)
    emit_table(
        ("", "what it is", "of a round", "seconds"),
        [
            (term, LIMITS[term], part(saved.middle / found.expected_s.middle), ranged(saved, seconds))
            for term, saved in ordered
            if saved.high > 0
        ],
        right=("of a round",),
    )


def _show_members(members: Sequence[MemberEstimate]) -> None:
    emit_line("\nMembers: one node of each")
    emit_table(
        ("member", "nodes", "tokens/s", "trains", "sent a round", "received", "of the run", "disk", "memory"),
        [
            (
                each.name,
                each.count,
                ranged(each.tokens_per_s, amount),
                ranged(each.train_s, seconds),
                human_bytes(each.sent_round.middle),
                human_bytes(each.received_round.middle),
                f"{human_bytes(each.sent_run.middle)} + {human_bytes(each.received_run.middle)}",
                human_bytes(each.disk),
                human_bytes(each.memory) if each.memory is not None else "-",
            )
            for each in members
        ],
        right=("nodes",),
    )


def _show_ways(found: Estimate) -> None:
    emit_line("\nWays to train the same steps: bytes of the busiest node, and time, for one round's steps")
    emit_table(
        ("way", "sent", "received", "time", "utilisation"),
        [
            (
                way.name,
                human_bytes(way.sent),
                human_bytes(way.received),
                ranged(way.period_s, seconds),
                ranged(way.utilisation, part),
            )
            for way in found.ways
        ],
    )


def _show_run(found: Estimate, currency: str) -> None:
    money = found.money

    def cost(spread: Spread | None) -> str:
        return "no price given" if spread is None else f"{ranged(spread, amount)} {currency}"

    loss, fits = found.loss, ", ".join(f"{name} {value:.3f}" for name, value in found.loss.by_fit.items())
    emit_line("\nThe whole run")
    emit_pairs(
        [
            ("wall-clock", ranged(found.wall_s, seconds)),
            ("accelerator hours", ranged(found.accelerator_hours, amount)),
            ("sent by the core", human_bytes(found.core_sent_run)),
            ("disk of the core", human_bytes(found.core_disk)),
            ("compute", cost(money.compute)),
            ("traffic", cost(money.traffic)),
            ("storage", cost(money.storage)),
            ("together", cost(money.total)),
            ("loss", f"{loss.middle:.3f} ({loss.low:.3f} to {loss.high:.3f}) nats a token: {fits}"),
        ]
    )
    beyond = "; this model or its tokens are outside of what it was fitted to" if loss.beyond else ""
    emit_line(
        "The loss is of training in one place, on its authors' text and tokenizer; what averaging costs or "
        f"gains is not in it{beyond}."
    )


def _show_formulas(scenario: Scenario) -> None:
    emit_line("\nFormulas")
    emit_table(
        ("what", "formula", "source"), [(one.what, one.formula, one.source) for one in formulas.FORMULAS]
    )
    emit_line("Constants: best, middle and worst case")
    rows: list[tuple[str, str, str, str, str]] = [
        (name, f"{v.best:.4g}", f"{v.middle:.4g}", f"{v.worst:.4g}", source)
        for name, v, source in formulas.constants(scenario.rates)
    ]
    rows += [
        (f"peak of {name}, operations/s", "", f"{peak:.4g}", "", source)
        for name, peak, source in formulas.accelerators(scenario.members)
    ]
    emit_table(("constant", "best", "middle", "worst", "source"), rows, right=("best", "middle", "worst"))


def _show_missing(missing: Sequence[Lack], currency: str) -> None:
    if not missing:
        emit_line("\nNothing is missing.")
        return
    emit_line("\nWhat is missing")
    emit_table(
        ("what", "who", "needed", "there is", "times", "what would help"), list(_rows(missing, currency))
    )


def _rows(missing: Sequence[Lack], currency: str) -> Iterator[tuple[str, ...]]:
    for one in missing:
        have = "-" if one.have is None else measured(one.have, one.unit, currency)
        factor = "-" if one.factor is None else f"{one.factor:.3g}"
        yield one.what, one.who, measured(one.need, one.unit, currency), have, factor, one.remedy


def measured(value: float, unit: str, currency: str) -> str:
    """With its unit."""
    if unit == "B":
        return human_bytes(value)
    if unit == "bit/s":
        return f"{human_bytes(value / 1e6).split()[0]} Mbit/s" if value < 1e9 else f"{value / 1e9:.3g} Gbit/s"
    if unit == "s":
        return seconds(value)
    if unit == "part":
        return part(value)
    return f"{amount(value)} {currency if unit == 'money' else unit}"
