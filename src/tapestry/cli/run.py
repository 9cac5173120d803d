"""`tapestry run`: plans, their runs, and what came of them; on the core's machine unless --node is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tapestry.cli.options import Json, RunName
from tapestry.cli.output import emit_json, emit_line, note, short
from tapestry.cli.run_recompute import recompute
from tapestry.cli.run_tensorboard import tensorboard
from tapestry.cli.run_watch import watch
from tapestry.cli.runhome import records_of, run_of, source

if TYPE_CHECKING:
    from tapestry.cli.planfile import PlanFile
    from tapestry.protocol.plan import Plan
    from tapestry.training.export import Lineage

app = typer.Typer(help="Runs: estimate, plan, start, watch, revise, export, recompute.", no_args_is_help=True)

PlanPath = Annotated[Path, typer.Argument(metavar="PLAN.toml", help="The plan file; see examples/plan.toml.")]
CoreOption = Annotated[Path, typer.Option("--core", metavar="HOME", help="Folder of the core.")]


@app.command()
def plan(file: PlanPath, core: CoreOption, as_json: Json = False) -> None:
    """Make a run's initial state and record its plan. The same file again has no effect.

    Example: tapestry run plan examples/plan.toml --core ./core
    """
    from tapestry.cli import planfile

    read = planfile.load(file)
    view, made = record_plan(read, core)
    if as_json:
        emit_json(
            {"run": view.run, "plan": view.plan, "state": made.initial_state, "parameters": made.parameters}
        )
        return
    emit_line(view.plan)
    note(f"run {view.run} of {made.parameters:,} parameters planned; next: tapestry run start --core {core}")


def record_plan(read: PlanFile, core: Path) -> tuple[Any, Any]:
    """Put the initial state into the core's blobs and record the plan: its view, and the plan itself."""
    from tapestry.core import operator
    from tapestry.core.service import Core

    if read.model is None:
        made = repeating(read, core)
        return operator.plan(core, made), made
    with Core.open(core) as opened:
        # These load torch, which a wrong HOME need not wait for.
        from tapestry.training.adopt import adopt
        from tapestry.training.model import initial_state
        from tapestry.training.vocabulary import extended

        name, table, store = read.run.name, read.model, opened.store
        more = None if table.add_tokens is None else Path(table.add_tokens)
        if table.adopt is not None:
            model, layout, state, parameters = adopt(
                name,
                Path(table.adopt),
                table.shard_bytes,
                store,
                fragments=read.streaming.fragments,
                licence=table.licence,
                add_tokens=more,
                told=lambda done: note(str(done)),
            )
        else:
            config = table.config or {}
            end_id = config.get("eos_token_id")
            with extended(
                table.tokenizer, more, end_id=end_id, told=lambda done: note(str(done))
            ) as tokenizer:
                model, layout, state, parameters = initial_state(
                    name,
                    config,
                    tokenizer,
                    table.seed,
                    table.shard_bytes,
                    store,
                    fragments=read.streaming.fragments,
                )
    made = read.plan(
        model=model.digest, layout=layout.digest, initial_state=state.digest, parameters=parameters
    )
    return operator.plan(core, made), made


def repeating(read: PlanFile, core: Path) -> Plan:
    """The plan of a run that begins where another was in the middle. Raises `PlanError`, `NotFound`."""
    from tapestry.core.service import Core
    from tapestry.errors import PlanError
    from tapestry.protocol.artifact import State
    from tapestry.protocol.plan import Origin

    assert read.origin is not None  # noqa: S101 - PlanFile has either
    with Core.open(core) as opened:
        of, begun = read.origin, opened.runs.opened(read.origin.run, read.origin.round + 1)
        if begun is None or begun.state != of.state:
            raise PlanError(
                f"round {of.round + 1} of run {of.run} did not begin with state {of.state[:12]} at this core",
                hint="write the file anew: tapestry catalog revoke NAME --home NODE_DIR --plan FILE",
            )
        before = opened.runs.standing(of.run).state.plan
        state = State.from_bytes(opened.store.read(of.state, State.MAX_BYTES))
        return read.plan(
            model=before.model,
            layout=before.layout,
            initial_state=of.state,
            parameters=before.parameters,
            origin=Origin(run=of.run, round=of.round, merges=state.merges, plan=begun.plan),
        )


@app.command()
def estimate(
    file: PlanPath,
    members: Annotated[
        Path, typer.Option("--members", metavar="MEMBERS.toml", help="Hardware, links, prices, commitments.")
    ],
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            "--calibrate", metavar="NODE", help="Folder of a node whose rounds to learn from; again for more."
        ),
    ] = None,
    formulas: Annotated[
        bool, typer.Option("--formulas/--no-formulas", help="Formulas and constants with their sources.")
    ] = True,
    as_json: Json = False,
) -> None:
    """What a plan would take before anything is started: time, bytes, disk, money, loss, and what is missing.

    Every figure is a range. Reads two files and nothing else, needs no core.

    Examples: tapestry run estimate examples/plan-70b.toml --members examples/members-70b.toml

    tapestry run estimate plan.toml --members members.toml --calibrate ./node --json
    """
    from tapestry.cli import estimate as planner
    from tapestry.governance.planner.estimate import estimate as work_out
    from tapestry.governance.planner.lacking import lacking

    scenario = planner.scenario_of(file, members, calibrate or [])
    found = work_out(scenario)
    missing = lacking(found, scenario)
    if as_json:
        emit_json(planner.as_json(found, missing, scenario))
        return
    planner.show(found, missing, scenario, with_formulas=formulas)


@app.command()
def start(core: CoreOption, run: RunName = None, as_json: Json = False) -> None:
    """Start a planned run; harmless for one that runs.

    Example: tapestry run start --core ./core
    """
    from tapestry.core import operator

    view = operator.start(core, run_of(core, run))
    if as_json:
        emit_json(view.model_dump(mode="json"))
        return
    emit_line(view.run)
    note(
        f"run {view.run} is {view.status}" + (f"; waiting for {view.waiting_for}" if view.waiting_for else "")
    )


@app.command()
def status(core: CoreOption, run: RunName = None, as_json: Json = False) -> None:
    """Where a run stands: merges, the open round, what it waits for, scores of each base.

    Example: tapestry run status --core ./core --json
    """
    from tapestry.cli import core_status, corehome
    from tapestry.core import operator
    from tapestry.core.service import Core
    from tapestry.core.views import environments

    name = run_of(core, run)
    view = operator.view(core, name)
    with Core.open(core) as opened:
        scores = corehome.scores(opened, name)
        state = opened.runs.standing(name).state
        total, trained_on = state.plan.rounds.total, environments(opened.store, state)
    stage, origin = state.plan.stage or "base", state.plan.origin
    if as_json:
        more = {"rounds": total, "stage": stage, "scores": scores, "environments": trained_on}
        if origin is not None:
            more["origin"] = origin.model_dump(mode="json")
        emit_json({**view.model_dump(mode="json"), **more})
        return
    core_status.print_run(view, state.plan, scores)


@app.command()
def revise(file: PlanPath, core: CoreOption, as_json: Json = False) -> None:
    """Give a run a new revision of its plan; in force when the next round opens.

    The tables rounds, inner, merge, evaluation, retention, sync and the title may change; the table
    model is what the run began with and is not read again.

    Example: tapestry run revise plan.toml --core ./core
    """
    from tapestry.cli import planfile
    from tapestry.core import operator

    read = planfile.load(file)
    before = operator.current_plan(core, run_of(core, read.run.name))
    fixed = {name: getattr(before, name) for name in ("model", "layout", "initial_state", "parameters")}
    view = operator.revise(core, read.plan(**fixed, origin=before.origin, revision=before.revision + 1))
    if as_json:
        emit_json({"run": view.run, "revision": before.revision + 1})
        return
    emit_line(str(before.revision + 1))
    note(f"revision {before.revision + 1} of run {view.run} is in force when its next round opens")


@app.command()
def withdraw(
    node: Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.")],
    core: CoreOption,
    run: RunName = None,
    as_json: Json = False,
) -> None:
    """Expect a node no more in this run, from the round in flight on; it may not enrol again.

    Example: tapestry run withdraw acme-1 --core ./core
    """
    from tapestry.core import operator
    from tapestry.errors import NotFound

    name = run_of(core, run)
    if node not in operator.view(core, name).enrolled:
        raise NotFound(f"node {node} is not enrolled in run {name}", hint="see: tapestry run status")
    view = operator.withdraw(core, name, node)
    if as_json:
        emit_json(view.model_dump(mode="json"))
        return
    emit_line(node)
    note(f"node {node} is withdrawn from run {name}")


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="Folder to make; it must not exist.")],
    core: Annotated[Path | None, typer.Option("--core", metavar="HOME", help="Folder of the core.")] = None,
    node: Annotated[Path | None, typer.Option("--node", metavar="HOME", help="Folder of a node.")] = None,
    run: RunName = None,
    as_json: Json = False,
) -> None:
    """Write the newest shared base as a Hugging Face directory: safetensors, configuration, tokenizer.

    Example: tapestry run export --core ./core --out ./model
    """
    from tapestry.protocol.artifact import State
    from tapestry.training.export import export as write

    store, name, state = source(core, node, run)
    head = State.from_bytes(store.read(state, State.MAX_BYTES))
    write(head, store, out, _lineage(core, node, name))
    if as_json:
        emit_json({"run": name, "state": state, "model": str(out)})
        return
    emit_line(str(out))
    note(f"state {short(state)} of run {name} written to {out}")


def _lineage(core: Path | None, node: Path | None, run: str) -> Lineage:
    """What the model card says of the rounds behind a base."""
    from tapestry.cli import corehome
    from tapestry.core.service import Core
    from tapestry.training.export import Lineage

    _, records, _, _ = records_of(core, node, run)
    last = max((r.round for r in records), default=0)
    plan = next((r.plan for r in records if r.round == last), "")
    names = {merged.member for record in records for merged in record.merged}
    tokens = 0
    if core is not None:
        with Core.open(core) as opened:
            tokens = sum(corehome.merged_tokens(opened, run).values())
            plan = plan or opened.runs.standing(run).state.plan.digest
    return Lineage(plan=plan, rounds=last, members=sorted(names), tokens=tokens)


app.command()(recompute)
app.command()(watch)
app.command()(tensorboard)
app.command()(watch)
app.command()(tensorboard)
