"""A small run as its operators see it: watched, scraped, exported to TensorBoard; and no text in any log."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tapestry.cli import watching
from tapestry.cli.run_watch import opened
from tapestry.node import child
from tapestry.node import metrics as node_metrics
from tapestry.node.home import Home
from tests.cli.conftest import Call, call  # noqa: F401 - a fixture
from tests.federation.support import WORDS, Federation

ROOT = Path(__file__).parents[2]
ROUNDS = 3
STEPS = 20
LOOK_S = 0.4
NODES = ("a", "b")
METRIC = re.compile(r"\b(?:tapestry|process)_[a-z_]+\b")


@dataclass
class Ran:
    """What was seen of a run, and where it lies."""

    federation: Federation
    pages: dict[str, list[str]] = field(default_factory=dict)
    """Scrapes of the core and of a node."""
    seen: dict[str, list[watching.Snapshot]] = field(default_factory=dict)
    healthz: str = ""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    root = tmp_path_factory.mktemp("operate")
    federation = Federation(
        root, seed_blobs=root / "seed", rounds=ROUNDS, steps=STEPS, where={"metrics": {"port": 0}}
    )
    toml = federation.node("a") / "node.toml"
    toml.write_text(toml.read_text() + "\n[metrics]\nport = 0\n")
    found = Ran(federation, pages={"core": [], "a": []}, seen={"core": [], "a": []})
    due = 0.0
    try:
        federation.start()
        with opened(federation.core, None, None) as of_core:
            of_node: list[watching.Watcher] = []
            source = watching.OfNode(federation.node("a"))

            def look(*, now: bool = False) -> None:
                nonlocal due
                if time.monotonic() < due and not now:
                    return
                due = time.monotonic() + LOOK_S
                found.seen["core"].append(of_core.look())
                if not of_node and source.runs():
                    of_node.append(watching.Watcher(source, "run"))
                if of_node:
                    found.seen["a"].append(of_node[0].look())
                scrape(found)

            federation.keep_going(timeout_s=200, between=look)
            look(now=True)
            source.close()
    finally:
        federation.stop()
    yield found


def scrape(found: Ran) -> None:
    status = {
        "core": found.federation.core / "status/core.json",
        "a": found.federation.node("a") / "status/agent.json",
    }
    for name, path in status.items():
        try:
            url = json.loads(path.read_bytes()).get("metrics")
            if url is None:
                continue
            with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
                found.pages[name].append(answer.read().decode())
            if name == "core":
                with urllib.request.urlopen(f"{url}/healthz", timeout=10) as answer:
                    found.healthz = answer.read().decode()
        except (OSError, ValueError):
            continue  # it is not up yet, or has ended


# -- run watch ------------------------------------------------------------------------------------


def test_the_watch_saw_the_run_go_by(ran: Ran) -> None:
    phases = {m.phase for snapshot in ran.seen["core"] for m in snapshot.members}
    assert {"trains", "finished"} <= phases
    assert not any(m.trouble for snapshot in ran.seen["core"] for m in snapshot.members)
    merges = [s.merges for s in ran.seen["core"]]
    assert merges == sorted(merges) and (merges[0], merges[-1]) == (0, ROUNDS)
    last = ran.seen["core"][-1]
    assert last.finished and last.rounds == ROUNDS
    for member in last.members:
        assert set(member.scores) == set(range(ROUNDS + 1))
        assert member.scores[ROUNDS] < member.scores[0]
    state = ran.federation.view()
    assert last.merges == state.head.merges


def test_bytes_are_those_that_were_sent(ran: Ran) -> None:
    """Held against the shards in the core's store; and synchronous training against its formula."""
    from tapestry.core.service import Core
    from tapestry.core.views import round_record
    from tapestry.protocol.artifact import Artifact

    total = 0
    with Core.open(ran.federation.core) as core:
        parameters = core.runs.standing("run").state.plan.parameters
        for number in range(1, ROUNDS + 1):
            for merged in round_record(core.journal, core.store, "run", number).merged:
                manifest = core.store.read(merged.delta)
                shards = Artifact.from_bytes(manifest).shards
                total += len(manifest) + sum(blob.bytes for blob in shards)
    last = ran.seen["core"][-1]
    assert last.sent_bytes == total > 0
    nodes, steps = len(NODES), STEPS
    assert last.synchronous_bytes == ROUNDS * steps * nodes * 2 * (nodes - 1) / nodes * parameters * 4


def test_a_node_watches_from_its_own_ledger(ran: Ran) -> None:
    last = ran.seen["a"][-1]
    assert last.merges == ROUNDS
    own = next(m for m in last.members if m.name == "a")
    assert own.bytes_received and own.bytes_received > 1000


def test_the_commands_at_a_gone_core(ran: Ran, call: Call) -> None:  # noqa: F811
    core, node = ran.federation.core, ran.federation.node("b")
    code, out, err = call("run", "watch", "--core", core, "--json")
    value = json.loads(out)
    assert (code, value["merges"], value["finished"], err) == (0, ROUNDS, True, "")
    assert any("does not serve; start it with: tapestry core serve" in text for text in value["notes"])
    code, out, _ = call("run", "watch", "--node", node, "--json")
    value = json.loads(out)
    assert code == 0 and any("cannot be reached" in text for text in value["notes"]), value["notes"]
    assert any("does not run" in text for text in value["notes"])


def test_without_a_terminal_there_are_plain_lines(ran: Ran) -> None:
    argv = [sys.executable, "-P", "-m", "tapestry.cli.main", "run", "watch", "--core", ran.federation.core]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"round {ROUNDS} of {ROUNDS} merged" in done.stdout
    assert "run run is finished" in done.stdout and "synchronous training" in done.stdout
    assert "\x1b" not in done.stdout


def test_json_lines_end_with_the_run(ran: Ran, call: Call) -> None:  # noqa: F811
    code, out, _ = call("run", "watch", "--core", ran.federation.core, "--json", "--follow")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(lines) == 1 and lines[0]["finished"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give either --core HOME or --node HOME"),
        (("--core", "nowhere"), "nowhere is not a core's home"),
        (("--node", "nowhere"), "nowhere is not a node's home"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], said: str, call: Call) -> None:  # noqa: F811
    code, out, err = call("run", "watch", *arguments)
    assert (code, out) == (2, "") and said in err and "hint:" in err


def test_an_unknown_run(ran: Ran, call: Call) -> None:  # noqa: F811
    code, _, err = call("run", "watch", "--core", ran.federation.core, "--run", "none")
    assert code == 5 and "runs here: run" in err


# -- TensorBoard ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_tensorboard_reads_what_was_written(ran: Ran, call: Call, tmp_path: Path) -> None:  # noqa: F811
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "tb"
    for _ in range(2):  # the second call replaces the first
        code, text, _ = call("run", "tensorboard", "--core", ran.federation.core, "--out", out, "--json")
        assert code == 0
    assert set(json.loads(text)["scalars"]) == {"run", "run.a", "run.b"}
    last = ran.seen["core"][-1]

    def read(name: str) -> EventAccumulator:
        found = EventAccumulator(str(out / name))
        found.Reload()
        return found

    for member in last.members:
        events = read(f"run.{member.name}").Scalars("score/bits_per_byte")
        assert {e.step: e.value for e in events} == pytest.approx(member.scores, rel=1e-6)
    whole = read("run")
    assert [e.step for e in whole.Scalars("round/tokens")] == [1, 2, 3]
    assert sum(e.value for e in whole.Scalars("round/updates_bytes")) == last.sent_bytes
    assert whole.Scalars("run/tokens")[-1].value == sum(e.value for e in whole.Scalars("round/tokens"))
    assert whole.Scalars("round/merged")[0].value == len(NODES)
    times = [e.wall_time for e in whole.Scalars("round/tokens")]
    assert times == sorted(times) and times[0] > 1.7e9


def test_a_folder_of_somebody_else_is_left_alone(ran: Ran, call: Call, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "tb" / "run").mkdir(parents=True)
    (tmp_path / "tb" / "run" / "mine").write_text("x")
    code, _, err = call("run", "tensorboard", "--core", ran.federation.core, "--out", tmp_path / "tb")
    assert code == 2 and "is not of an earlier call" in err
    assert [p.name for p in (tmp_path / "tb" / "run").iterdir()] == ["mine"]


# -- metrics --------------------------------------------------------------------------------------


def samples(page: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(page):
        for each in family.samples:
            found.setdefault(each.name, []).append((dict(each.labels), each.value))
    return found


def test_figures_of_the_core(ran: Ran) -> None:
    assert ran.healthz == "ok\n"
    pages = [samples(page) for page in ran.pages["core"]]
    last = pages[-1]
    assert last["tapestry_run_rounds"] == [({"run": "run"}, ROUNDS)]
    assert last["tapestry_run_merges"] == [({"run": "run"}, ROUNDS)]
    assert last["tapestry_merges_total"] == [({}, ROUNDS)]
    assert last["tapestry_members"] == [({}, len(NODES))]
    awaited = [
        value
        for page in pages
        for labels, value in page["tapestry_run_nodes"]
        if labels["standing"] == "awaited"
    ]
    assert max(awaited) == len(NODES)
    kinds = {labels["kind"] for labels, _ in last["tapestry_http_requests_total"]}
    assert kinds == {"poll", "runs", "blobs", "ledger", "other"}
    assert sum(v for labels, v in last["tapestry_http_bytes_total"] if labels["direction"] == "in") > 1e5
    found = [list(member.scores.values())[-1] for member in ran.seen["core"][-1].members]
    ((_, mean),) = last["tapestry_run_bits_per_byte"]
    assert mean == pytest.approx(sum(found) / len(found))


def test_figures_of_a_node(ran: Ran) -> None:
    last = samples(ran.pages["a"][-1])
    sent = {labels["direction"]: value for labels, value in last["tapestry_node_http_bytes_total"]}
    assert min(sent.values()) > 1000
    alive = {labels["role"]: value for labels, value in last["tapestry_node_process_alive"]}
    assert alive == {"supervisor": 1, "gate": 1, "trainer": 1, "agent": 1}
    passed = {labels["word"]: value for labels, value in last["tapestry_node_gate_total"]}
    assert passed["refused"] == 0 and passed["passed"] >= 1
    home = Home(ran.federation.node("a"))
    seconds, used = node_metrics._Standing(home, child.Status(home, "agent"))._rounds()
    parts = {each.labels["part"]: each.value for each in seconds.samples}
    assert parts["trained"] > 0 and 0 < used.samples[0].value <= 1
    ends = {labels["role"]: value for labels, value in last["tapestry_node_key_expires_timestamp_seconds"]}
    assert set(ends) == {"node", "witness"}


def test_no_page_names_a_member_a_node_or_a_key(ran: Ran) -> None:
    """And labels are few, whatever the consortium is."""
    home = ran.federation.core
    secret = (home / "keys/core.key").read_text().splitlines()[1]
    for name, pages in ran.pages.items():
        page = pages[-1]
        assert secret not in page and str(home) not in page
        values = {v for each in samples(page).values() for labels, _ in each for v in labels.values()}
        assert not values & (set(NODES) | {f"{node}-1" for node in NODES}), name
        assert len(page.splitlines()) < 400
    control = "\n".join(ran.pages["core"]) + 'x{node="a"} 1\n'
    assert {
        v for e in samples(control.splitlines()[-1] + "\n").values() for lb, _ in e for v in lb.values()
    } == {"a"}


def test_every_figure_on_the_dashboard_is_in_a_scrape(ran: Ran) -> None:
    board = json.loads((ROOT / "deploy/grafana/tapestry.json").read_text())
    last = [page for pages in ran.pages.values() for page in pages]
    known = {name for page in last for name in samples(page)}
    # A family is there from the first scrape on, though a node's first round has no time yet.
    known |= {family.name for page in last for family in text_string_to_metric_families(page)}
    asked = [t["expr"] for panel in board["panels"] for t in panel.get("targets", ())]
    assert len(asked) > 15
    for expression in asked:
        names = set(METRIC.findall(expression))
        assert names and names <= known, (expression, names - known)


# -- logs -----------------------------------------------------------------------------------------


def logged(root: Path) -> list[Path]:
    found = [p for p in root.rglob("*") if p.is_file() and ({"logs", "status"} & set(p.parent.parts))]
    return [p for p in found if "texts" not in p.parts]


def test_no_log_holds_text(ran: Ran) -> None:
    root = ran.federation.root
    words = [word for name in NODES for word in WORDS[name].split() if len(word) > 3 and word != "the"]
    paths = logged(root)
    assert {p.name for p in paths} >= {"core.log", "agent.log", "gate.log", "trainer.log", "trainer.json"}
    said = {p: p.read_bytes() for p in paths}
    for word in words:
        assert not [p for p, data in said.items() if word.encode() in data], word
    text = b"".join(p.read_bytes() for p in (root / "texts").rglob("*.txt"))  # the control
    assert all(word.encode() in text for word in words)


def test_logs_are_lines_of_json(ran: Ran) -> None:
    root = ran.federation.root
    logs = [path for name in ("agent", "gate") for path in root.glob(f"nodes/*/logs/{name}.log")]
    for path in [root / "core/logs/core.log", *logs]:
        lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
        assert all("event" in line for line in lines), path
        assert lines or path.name == "gate.log"  # which has nothing to say while nothing is refused
