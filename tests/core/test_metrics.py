"""Of many runs the series are of those that matter: in flight, then planned, then those that ended last."""

from __future__ import annotations

from pathlib import Path

from tapestry.core.metrics import MAX_RUNS, CoreMetrics, kept
from tapestry.rounds import machine
from tests.audit.stage import on_core


def test_a_run_in_flight_has_series_among_many_that_are_planned(tmp_path: Path) -> None:
    """By name it comes last."""
    with on_core(tmp_path) as scene:
        for number in range(MAX_RUNS + 2):
            scene.plan(f"a{number:02}")
        scene.plan("z")
        scene.put(machine.Start(), "z")
        page = CoreMetrics(scene.core, {}).page().decode()
        runs = scene.core.runs
        states = [runs.standing(name).state for name in runs.names()]
    series = [line for line in page.splitlines() if line.startswith("tapestry_run_merges{")]
    assert len(series) == MAX_RUNS and 'tapestry_run_merges{run="z"} 0.0' in series
    assert f'tapestry_runs{{status="planned"}} {MAX_RUNS + 2:.1f}' in page, "all are counted"

    newest = {state.run: 100 + number for number, state in enumerate(states)}
    finished = [state.model_copy(update={"status": "finished"}) for state in states[:-3]]
    found = [state.run for state in kept([*finished, *states[-3:]], newest)]
    assert found[0] == "z" and found[1:3] == [f"a{MAX_RUNS + 1}", f"a{MAX_RUNS}"], "running, then planned"
    assert found[3:] == [f"a{number:02}" for number in range(MAX_RUNS - 1, 2, -1)], "the last that ended"
