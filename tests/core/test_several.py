"""Several processes serve one consortium: each answers, one coordinates, and another takes over from it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.core import operator, settings
from tapestry.errors import AuthError
from tapestry.identity.keyring import make_revocation
from tapestry.protocol import canonical
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RunView
from tests.core.support import CoreUnderTest, Member, as_json, code, make_plan

Pair = tuple[CoreUnderTest, CoreUnderTest]


@pytest.fixture(params=["sqlite", "postgresql"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    where = {"database": str(tmp_path / "shared.sqlite"), "blobs": str(tmp_path / "blobs")}
    if request.param == "postgresql":
        where["database"] = request.getfixturevalue("postgres").database()
    one = CoreUnderTest(tmp_path / "one", where=where)
    two = one.beside(tmp_path / "two")
    yield one.start(), two.start()
    one.close()
    two.close()


def leads(core: CoreUnderTest) -> bool:
    """What the process that runs now last said of it."""
    events = [json.loads(line)["event"] for line in core.log_lines()]
    return ([event for event in events if event in ("leads", "leads-no-more")] or [""])[-1] == "leads"


def until_leads(core: CoreUnderTest) -> None:
    deadline = time.monotonic() + 15
    while not leads(core):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def one_round(plan: Plan, members: list[Member], round: int) -> RunView:
    before = members[0].wait(lambda view: view.current is not None and view.current.round == round)
    assert before.current is not None
    for value, member in enumerate(members, 1):
        member.hand_in(plan, value / 8, round=round, state=before.current.state)
    return members[-1].wait(lambda view: view.head.round == round, timeout_s=30)


def test_a_run_through_both_and_one_is_killed(pair: Pair, tmp_path: Path) -> None:
    one, two = pair
    plan = make_plan(tmp_path / "made", total=3)
    ada, bob = one.running(plan, tmp_path / "made", "ada", "bob")
    bob.url = two.url
    assert one_round(plan, [ada, bob], 1).head.merges == 1
    first, second = (one, two) if leads(one) else (two, one)
    until_leads(first)
    assert leads(first) and not leads(second)
    first.kill()
    began = time.monotonic()
    ada.url = bob.url = second.url
    assert one_round(plan, [ada, bob], 2).head.merges == 2
    until_leads(second)
    assert time.monotonic() - began < 30
    first.start()
    ada.url = first.url
    assert one_round(plan, [ada, bob], 3).status == "finished"
    assert leads(second) and not leads(first)
    heads = {operator.view(core.root, "run").head.state for core in pair}
    assert len(heads) == 1


def test_a_key_revoked_at_one_is_refused_at_the_other(pair: Pair) -> None:
    one, two = pair
    ada = one.member("ada")
    ada.url = two.url
    assert ada.ask("GET", "/v1/runs").status_code == 200  # joined at the one, known at the other
    ada.url = one.url
    revocation = make_revocation(ada.root, member="ada", revoked=ada.key.key_id, reason="compromised")
    body = canonical.encode({"revocation": as_json(revocation)})
    assert ada.ask("POST", "/v1/keys", body).status_code == 200
    ada.url = two.url
    assert code(ada.ask("GET", "/v1/runs")) == "key"


def test_a_database_is_one_consortiums(pair: Pair, tmp_path: Path) -> None:
    one, _ = pair
    database = settings.load(operator.Home(one.root)).database
    with pytest.raises(AuthError, match="speaks for its consortium"):
        operator.init(tmp_path / "foreign", settings.make(port=0, database=database))
