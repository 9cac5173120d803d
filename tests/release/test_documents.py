"""What a release says of itself: model card, bill of materials, model signature."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement as in_toto
from in_toto_attestation.v1 import statement_pb2

from tapestry.catalog.listing import CatalogEntry, shown
from tapestry.core.journal import Decision, run_scope
from tapestry.errors import ReleaseError, SignatureError
from tapestry.identity.envelope import sign
from tapestry.identity.keys import KeyPair
from tapestry.protocol.clock import time_text
from tapestry.protocol.plan import Origin
from tapestry.release import client, contents, oms
from tapestry.release.checking import Checked
from tapestry.release.oms import ModelKeyPair
from tapestry.rounds import machine
from tests.catalog.made import card
from tests.release.support import BASE, OPEN, Forge, World


def listed(world: World, member: str = "acme", *, key: KeyPair | None = None, **changed: Any) -> bytes:
    what, public = shown(card(name="letters"))
    fields: dict[str, Any] = {
        "consortium": world.consortium, "member": member, "node": f"{member}-1", "dataset": "letters",
        "at": time_text(world.now), "card": what, "public": public,
    }  # fmt: skip
    return sign(CatalogEntry(**(fields | changed)), key or world.nodes[member].key).to_bytes()


@pytest.fixture(scope="module", params=["open", "closed"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[World, Checked]]:
    """With a charter that keeps nothing back, and with one that keeps all it may."""
    folder = tmp_path_factory.mktemp(request.param)
    closed = {"public": {"members": "consortium", "charter": "consortium"}}
    world = World(folder / "core", **(OPEN if request.param == "open" else closed))
    with world.core:
        world.trained()
        world.accepted()
        yield world, world.draft(catalog=[listed(world)])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Accepts whatever these tests ask for."""
    made = World(tmp_path_factory.mktemp("documents") / "core", **OPEN)
    with made.core:
        made.trained()
        yield made


def texts(checked: Checked) -> dict[str, str]:
    return {name: (checked.folder / "model" / name).read_text() for name in (contents.CARD, contents.BOM)}


def test_lineage_evaluation_and_data_as_far_as_they_are_public(made: tuple[World, Checked]) -> None:
    world, checked = made
    facts = checked.facts
    assert facts is not None
    assert [(each.member, each.rounds, each.tokens) for each in facts.parts] == [
        ("acme", 1, 1000), ("birch", 1, 2000),
    ]  # fmt: skip
    found = texts(checked)
    for text in found.values():
        for part in (facts.state, facts.decision, facts.plan.digest, facts.charter.digest, world.consortium):
            assert part in text
    is_open = facts.charter.public.scores == "public"
    shares = [f"{each.weight / sum(p.weight for p in facts.parts):.1%}" for each in facts.parts]
    for secret in ("1.25", "letters", "acme", "birch", "2,000", *shares):
        assert (secret in found[contents.CARD]) == is_open, secret
    for secret in ("1.25", "letters", "acme"):
        assert (secret in found[contents.BOM]) == is_open, secret
    assert "private" not in found[contents.CARD]


def test_what_an_owner_keeps_to_itself_is_not_shown(world: World) -> None:
    """Fields of a card that are for the consortium, or for nobody else, stay out of a public catalog."""
    world.accepted("shown")
    checked = world.draft("shown", catalog=[listed(world)])
    entry = card(name="letters")
    text = texts(checked)[contents.CARD]
    assert "letters" in text and str(entry.category) in text
    assert f"| {entry.content.bytes} |" not in text and entry.description not in text


def test_a_run_that_repeats_another_has_the_contributions_of_both(tmp_path: Path) -> None:
    """As certificates have it: what was merged before the repetition began is in the weights, too."""
    world = World(tmp_path / "core", **OPEN)
    with world.core:
        head = world.trained(rounds=2)
        plan = world.state().plan
        again = plan.model_copy(
            update={
                "run": "again",
                "initial_state": head,
                "origin": Origin(run="run", round=1, merges=1, plan=plan.digest),
            }
        )
        step = machine.plan_run(again)
        world.core.journal.apply(
            run_scope("again"), lambda *_: Decision(state=step.state, events=step.events)
        )
        world.ratified(again)
        world.put(machine.Start(), "again")
        nodes = [world.nodes[name] for name in ("acme", "cedar")]
        for node in nodes:
            world.enrol(node, "again")
        for node in nodes:
            world.send(node, "again", tokens=500)
        world.merge("again")
        facts = [
            world.view().accepted(name)
            for name, run in (("first", "run"), ("second", "again"))
            if world.accepted(name, state=world.state(run).head)
        ]
    assert [(each.run, each.merges) for each in facts] == [("run", 1), ("again", 2)]
    assert [[(each.member, each.rounds, each.tokens) for each in one.parts] for one in facts] == [
        [("acme", 1, 1000), ("birch", 1, 2000)],
        [("acme", 2, 1500), ("birch", 1, 2000), ("cedar", 1, 500)],
    ]
    for one in facts:
        assert sum(each.weight for each in one.parts) == one.merges << 24


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"key": KeyPair.generate()}, "not signed by that member"),
        ({"member": "birch", "key": "acme"}, "not signed by that member"),
        ({"consortium": "0" * 64}, "for another consortium"),
    ],
)
def test_a_dataset_that_its_member_does_not_list(world: World, how: dict[str, Any], says: str) -> None:
    if how.get("key") == "acme":
        how = {**how, "key": world.nodes["acme"].key}
    name = f"listed-{len(world.view().releases)}"
    world.accepted(name)
    with pytest.raises(ReleaseError, match=says):
        world.draft(name, catalog=[listed(world, **how)])
    world.draft(name, catalog=[listed(world)])


def test_the_bill_of_materials_holds_under_the_official_schema(made: tuple[World, Checked]) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    _, checked = made
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    text = texts(checked)[contents.BOM]
    assert validator.validate_str(text) is None
    value = json.loads(text)
    assert value["metadata"]["component"]["modelCard"]["modelParameters"]["task"] == "text-generation"
    assert {each["name"] for each in value["components"]} == {*checked.digests} - {*contents.WRITTEN}
    for spoiled in (
        {**value, "bomFormat": "Other"},
        {**value, "metadata": {**value["metadata"], "timestamp": 5}},
        {**value, "more": True},
    ):
        assert validator.validate_str(json.dumps(spoiled)) is not None
    del value["metadata"]["component"]["name"]
    assert validator.validate_str(json.dumps(value)) is not None


DIGESTS = {"a": "1" * 64, "b/c": "2" * 64}


def test_a_model_signature(tmp_path: Path) -> None:
    pair = ModelKeyPair.generate()
    again = ModelKeyPair.from_pem(pair.to_pem())
    bundle = again.sign("m", DIGESTS)
    oms.verify(bundle, pair.public_pem, "m", DIGESTS)
    value = json.loads(bundle)
    payload = json.loads(base64.b64decode(value["dsseEnvelope"]["payload"]))
    assert payload["predicateType"] == "https://model_signing/signature/v1.0"
    parsed = json_format.ParseDict(payload, statement_pb2.Statement())  # of in-toto's own library
    in_toto.Statement.copy_from_pb(parsed).validate()

    def changed(**fields: Any) -> str:
        return json.dumps({**value, "dsseEnvelope": {**value["dsseEnvelope"], **fields}})

    def of(**fields: Any) -> str:
        return changed(payload=base64.b64encode(json.dumps({**payload, **fields}).encode()).decode())

    other = ModelKeyPair.generate().public_pem
    for text, key, name, digests in (
        (bundle, other, "m", DIGESTS),
        (bundle, pair.public_pem, "n", DIGESTS),
        (bundle, pair.public_pem, "m", {**DIGESTS, "a": "3" * 64}),
        (bundle, pair.public_pem, "m", {"a": "1" * 64}),
        (bundle, pair.public_pem, "m", {**DIGESTS, "d": "3" * 64}),
        (of(subject=[]), pair.public_pem, "m", DIGESTS),
        (changed(payloadType="text/plain"), pair.public_pem, "m", DIGESTS),
        (changed(signatures=[]), pair.public_pem, "m", DIGESTS),
        (changed(signatures=value["dsseEnvelope"]["signatures"] * 2), pair.public_pem, "m", DIGESTS),
        ("{}", pair.public_pem, "m", DIGESTS),
        # Around the envelope anybody could write: certificates, say, that other programs believe.
        (json.dumps({**value, "verificationMaterial": {"x": 1}}), pair.public_pem, "m", DIGESTS),
        (bundle[:-1] + ',"more":{}}', pair.public_pem, "m", DIGESTS),
        (
            changed(signatures=[{**value["dsseEnvelope"]["signatures"][0], "cert": "x"}]),
            pair.public_pem,
            "m",
            DIGESTS,
        ),
        ("[" * 5000, pair.public_pem, "m", DIGESTS),
        (bundle, "no key", "m", DIGESTS),
        (bundle, "é", "m", DIGESTS),
    ):
        with pytest.raises(SignatureError):
            oms.verify(text, key, name, digests)


def test_only_holders_model_signatures_are_kept(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """They lie beside the targets, so that anybody could put one there."""
    made = World(tmp_path / "signed" / "core", **OPEN)
    with made.core:
        made.trained()
        made.released()
    repo = Forge(made.repository, {}, made.online)
    place = repo.folder / "signatures" / BASE
    good = (place / "acme.json").read_bytes()
    for number, data in enumerate((b"", b"{}", good[:-9], (place / "birch.json").read_bytes())):
        (place / "acme.json").write_bytes(data)
        got = client.fetch(
            str(repo.folder), tmp_path / f"out-{number}", root=repo.root, trust=tmp_path / "t", name=BASE
        )
        assert got.signed_model == ("birch",)
        assert sorted(path.name for path in (got.folder / "signatures").iterdir()) == [
            "birch.pub",
            "birch.sig",
        ]
    (place / "acme.json").write_bytes(good)
    got = client.fetch(str(repo.folder), tmp_path / "good", root=repo.root, trust=tmp_path / "t", name=BASE)
    assert got.signed_model == ("acme", "birch")
