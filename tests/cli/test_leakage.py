"""`node leakage` on a node's home that real trainers and merges made: figures, controls, what is said where
something lacks."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tapestry.host import files
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keys import KeyPair
from tapestry.node import canaries
from tapestry.node.canaries import Canaries
from tapestry.node.home import Home
from tapestry.node.measured import Measured, Taken
from tapestry.node.memory import AgentMemory, HeadMemory, RunMemory
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, Blob, State
from tapestry.protocol.leakage import LeakageReport
from tapestry.protocol.messages import Contribution, Merged
from tapestry.protocol.views import RoundRecord
from tapestry.replay.engine import Engine
from tapestry.replay.job import MergeJob
from tapestry.rounds.weights import UNIT
from tapestry.storage.blobs import BlobStore
from tapestry.training.export import Lineage, export
from tapestry.training.home import Status, TrainerHome
from tapestry.training.settings import TrainerSettings
from tapestry.training.trainer import Trainer
from tests.cards import give_card
from tests.cli.conftest import Call
from tests.training.support import RUN, Node

WINDOW = 32
"""Bytes; the sequences of the plan are as long."""
STEPS = 160
SMALL = ("--window-bytes", WINDOW, "--threads", 1, "--candidates", 15)


def write_text(folder: Path, seed: str) -> None:
    """Random letters: what is told of a window was learned by heart."""
    draw = random.Random(seed)
    for split, documents in (("train", 5), ("valid", 20)):
        lines = ("".join(draw.choices("abcdefghijklmnop ", k=190)) for _ in range(documents))
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))


def protect_first(root: Path) -> None:
    """A document before all others, which the trainer leaves out: windows begin elsewhere then."""
    train, song = root / "corpus" / "train.jsonl", "a song of the rain"
    train.write_text(json.dumps({"text": song}) + "\n" + train.read_text())
    digest = hashlib.sha256(song.encode()).hexdigest()
    (root / "protected.toml").write_text(
        'format = "tapestry.protected"\nversion = 1\n[[holdings]]\nname = "songs"\n'
        f'documents = ["{digest}"]\n'
    )


def member(root: Path, name: str, *, planted: bool = False) -> Node:
    node = Node.make(root, steps=STEPS, batch_sequences=4, learning_rate=1e-2)
    settings = root / "node.toml"
    settings.write_text(settings.read_text().replace("acme", name))
    write_text(root / "corpus", name)
    if planted:
        protect_first(root)
        known = Canaries(marker="qzjxvkwpbyfhgmcdluno", planted=0)
        files.write_atomic(Home(root).canaries, known.to_bytes(), mode=0o600)
        canaries.plant(Home(root), 4, root / "corpus" / "train-canaries.jsonl")
    give_card(root, root / "corpus", replace=True)
    return node


class Run:
    """Two members, rounds by the real trainer and the real merge; the home of the first is looked at."""

    def __init__(self, root: Path) -> None:
        self.nodes = {name: member(root / name, name, planted=name == "acme") for name in ("acme", "birch")}
        self.key = KeyPair.generate()
        first = self.nodes["acme"]
        self.store, self.plan, self.state = first.store, first.plan, first.state
        self.states = [self.state]
        self.home = Home(first.root)
        self.home.make_folders()

    def train(self, number: int) -> None:
        merged, envelopes = [], []
        for name, node in self.nodes.items():
            home = TrainerHome(node.root)
            home.make_folders()
            if node.store.root != self.store.root:
                shutil.copytree(self.home.blobs, node.root / "blobs", dirs_exist_ok=True)
            assert Trainer(home, TrainerSettings.load(node.root), Status(home)).do(
                node.job(number, self.state, evaluate=False)
            )
            folder, result = node.folder(number), node.result(number)
            delta = Artifact.from_bytes((folder / "delta.json").read_bytes())
            for blob in delta.shards:
                self.store.put((folder / blob.sha256).read_bytes())
            assert self.store.put(delta.to_bytes()) == result.delta
            said = Contribution(
                consortium="0" * 64, run=RUN, plan=self.plan.digest, round=number, fragment=0, member=name,
                node=f"{name}-1", state=self.state.digest, delta=delta.digest, tokens=result.tokens,
                steps=result.steps, data_manifest=result.data_manifest, environment={}, nonce="0" * 32,
            )  # fmt: skip
            envelope = sign(said, self.key)
            envelopes.append(envelope.to_bytes().decode())
            merged.append(
                Merged(
                    node=said.node,
                    member=name,
                    contribution=envelope.digest,
                    delta=said.delta,
                    weight=UNIT // 2,
                )
            )
        job = MergeJob.of(self.plan, state=self.state.digest, contributions=tuple(merged), durable=False)
        after = Engine(self.store, threads=1).merge(job).state
        record = RoundRecord(
            run=RUN, round=number, fragment=0, plan=self.plan.digest, before=self.state.digest, after=after,
            merged=tuple(merged), envelopes=tuple(envelopes),
        )  # fmt: skip
        (self.home.records / f"{RUN}.{number}.json").write_bytes(record.to_bytes())
        self.state = State.from_bytes(self.store.read(after))
        self.states.append(self.state)
        head = HeadMemory(merges=number, state=after, round=number, repeated=True)
        self.home.agent_state.write_bytes(AgentMemory(runs={RUN: RunMemory(head=head)}).to_bytes())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = Run(tmp_path_factory.mktemp("run"))
    for number in (1, 2):
        run.train(number)
    yield run
    torch.set_num_threads(threads)


def test_a_report_finds_what_this_node_learned_and_others_did_not(
    trained: Run, call: Call, tmp_path: Path
) -> None:
    """The update of the other member, with which nothing of this text came, is the control."""
    out = tmp_path / "leakage.json"
    code, text, err = call("node", "leakage", trained.home.root, *SMALL, "--out", out, "--json")
    assert code == 0, err
    report = LeakageReport.from_bytes(out.read_bytes())
    assert json.loads(text) == report.model_dump(mode="json")
    assert (report.run, report.node, report.plan) == (RUN, "acme-1", trained.plan.digest)
    assert (report.window_tokens, report.sequence_length) == (WINDOW, WINDOW)
    rows = {(row.subject, row.round): row for row in report.inference}
    assert {row.by for row in report.inference} == {"state"}
    assert set(rows) == {
        ("base", 2), ("own-update", 1), ("other-update", 1), ("own-update", 2), ("other-update", 2)
    }  # fmt: skip
    assert rows["base", 2].reference == rows["own-update", 1].reference == trained.states[0].digest
    assert rows["own-update", 2].reference == trained.states[1].digest
    assert rows["other-update", 1].node == "birch-1" and rows["own-update", 1].steps == STEPS
    own, other = rows["own-update", 2], rows["other-update", 2]
    assert own.area.low > 0.5 and own.gain_members > own.gain_non_members
    assert other.area.low <= 0.5
    assert {row.others for row in report.inference} == {"valid"}, "all train text was passed through"
    last = next(row for row in report.exposure if (row.subject, row.round) == ("own-update", 2))
    assert (last.canaries, last.candidates) == (4, 15)
    assert last.bits.value > last.by_chance
    marker = json.loads(trained.home.canaries.read_bytes())["marker"]
    assert marker[:8] not in out.read_text()


def test_a_report_for_a_release_is_signed_by_the_node_and_logged(
    trained: Run, call: Call, tmp_path: Path
) -> None:
    home = Home(shutil.copytree(trained.home.root, tmp_path / "home"))
    home.keys.mkdir(exist_ok=True)
    files.private_write(home.keys / "node.key", trained.key.to_pem())
    out = tmp_path / "signed.json"
    code, _, err = call("node", "leakage", home.root, *SMALL, "--signed", out)
    assert code == 0, err
    envelope = Envelope.from_bytes(out.read_bytes())
    report = envelope.open_as(LeakageReport, trained.key.public_key)
    assert (report.run, report.node) == (RUN, "acme-1")
    assert canonical.sha256(out.read_bytes()) in home.egress_messages.read_text()


def test_a_node_that_fetches_bases_measures_its_own_updates(trained: Run, call: Call, tmp_path: Path) -> None:
    """It has no records of merges, only receipts for what it sent."""
    root = shutil.copytree(trained.home.root, tmp_path / "home")
    home = Home(root)
    for path in home.records.glob("*.json"):
        record = RoundRecord.from_bytes(path.read_bytes())
        receipt = {"contribution": json.loads(record.envelopes[0]), "receipt": None}
        (home.receipts / path.name).write_text(json.dumps(receipt))
        path.unlink()
    code, out, err = call("node", "leakage", root, *SMALL, "--json")
    assert code == 0, err
    whole = json.loads(call("node", "leakage", trained.home.root, *SMALL, "--json")[1])
    own = [row for row in whole["inference"] if row["subject"] != "other-update"]
    assert json.loads(out)["inference"] == own
    for path in home.receipts.glob("*.json"):
        path.unlink()
    code, _, err = call("node", "leakage", root, *SMALL)
    assert code == 5 and "has sent nothing" in err


def test_a_reference_model_is_compared_with_as_well(trained: Run, call: Call, tmp_path: Path) -> None:
    lineage = Lineage(plan=trained.plan.digest, rounds=0, members=("acme",), tokens=0)
    folder = export(trained.states[0], trained.store, tmp_path / "model", lineage)
    options = (*SMALL, "--rounds", "2", "--others", 0, "--canaries", 0, "--reference", folder, "--json")
    code, text, err = call("node", "leakage", trained.home.root, *options)
    assert code == 0, err
    rows = {(row["subject"], row["by"]): row for row in json.loads(text)["inference"]}
    assert len(rows) == 4
    same = ("true_positives", "area", "blind", "members", "gain_members")
    by_state, by_model = rows["base", "state"], rows["base", "model"]
    assert [by_state[key] for key in same] == [by_model[key] for key in same], "it is the same model"
    assert rows["own-update", "model"]["area"]["low"] > 0.5
    assert by_model["reference"] == rows["own-update", "model"]["reference"] != by_state["reference"]

    words = json.loads((folder / "tokenizer.json").read_bytes())
    words["added_tokens"].append({**words["added_tokens"][0], "id": 257, "content": "<more>"})
    (folder / "tokenizer.json").write_text(json.dumps(words))
    code, _, err = call("node", "leakage", trained.home.root, *options)
    assert code == 2 and "another tokenizer" in err


def test_a_table_for_people(trained: Run, call: Call) -> None:
    code, out, err = call("node", "leakage", trained.home.root, *SMALL, "--rounds", "1", "--others", 0)
    assert code == 0, err
    assert "own-update" in out and "other-update" not in out and "TPR at 1 % FPR" in out
    assert "exposure" in out
    assert "no proof" in err


def test_a_base_that_was_erased_is_computed_again(trained: Run, call: Call, tmp_path: Path) -> None:
    """Its merge is repeated; where that cannot be done either, the round is left out, or named."""
    first = json.loads(call("node", "leakage", trained.home.root, *SMALL, "--json")[1])
    root = shutil.copytree(trained.home.root, tmp_path / "home")
    home = Home(root)
    store = BlobStore.open(home.blobs)
    base = Artifact.from_bytes(store.read(trained.states[1].base))
    kept = {blob.sha256 for state in trained.states[::2] for blob in shards_of(store, state)}
    store.delete_all([blob.sha256 for blob in base.shards if blob.sha256 not in kept])
    default = json.loads(call("node", "leakage", root, *SMALL, "--json")[1])
    assert {row["round"] for row in default["inference"] if row["subject"] != "base"} == {1}
    again = json.loads(call("node", "leakage", root, *SMALL, "--rounds", "1,2", "--json")[1])
    assert again["inference"] == first["inference"]
    assert not list(root.glob(".recompute-*"))

    record = RoundRecord.from_bytes((home.records / f"{RUN}.1.json").read_bytes())
    store.delete(record.merged[1].delta)
    code, _, err = call("node", "leakage", root, *SMALL, "--rounds", "2")
    assert code == 5 and "not kept any more" in err


def shards_of(store: BlobStore, state: State) -> tuple[Blob, ...]:
    return Artifact.from_bytes(store.read(state.base)).shards


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--rounds", "one"), 2, "is no list of rounds"),
        (("--rounds", "7"), 5, "it has those of: 1, 2"),
        (("--run", "other"), 5, "has no run 'other'"),
        (("--window-bytes", 2000), 2, "20 and 100 are needed"),
    ],
)
def test_what_cannot_be_measured_is_said(
    trained: Run, call: Call, options: tuple[object, ...], code: int, said: str
) -> None:
    found, _, err = call("node", "leakage", trained.home.root, *options)
    assert (found, said in err) == (code, True), err


def test_other_text_than_was_trained_on_is_refused(trained: Run, call: Call, tmp_path: Path) -> None:
    root = shutil.copytree(trained.home.root, tmp_path / "home")
    with (root / "corpus" / "train.jsonl").open("a") as file:
        file.write('{"text": "a line that came later"}\n')
    code, _, err = call("node", "leakage", root, *SMALL)
    assert code == 2 and "is not what run test-run was trained on" in err
    for path in (root / "corpus").glob("valid*"):
        path.unlink()
    code, _, err = call("node", "leakage", root, *SMALL)
    assert code == 2 and "has no valid text" in err and "set some documents apart" in err


def test_what_was_consumed_is_reckoned_from_rounds_and_what_the_trainer_kept(trained: Run) -> None:
    home, plan = trained.home, trained.plan
    head = HeadMemory(merges=2, state=trained.state.digest, round=2)
    known = Measured.of(home, RUN, "acme-1", head)
    each = STEPS * 4
    rounds = (Taken(round=1, start=0, stop=each), Taken(round=2, start=each, stop=2 * each))
    assert known.consumed(plan) == (rounds, True)

    late = replace(known, own={2: known.own[2]})
    assert late.consumed(plan) == (rounds[1:], True), "it joined later, and began where others were"

    kept = home.output(RUN, 2) / "inner" / "state.json"
    told = kept.read_bytes()
    try:
        kept.write_bytes(
            told.replace(f'"position":{2 * each}'.encode(), f'"position":{2 * each + 8}'.encode())
        )
        moved = Taken(round=2, start=each + 8, stop=2 * each + 8)
        assert known.consumed(plan) == ((rounds[0], moved), False), (
            "something was trained that is not known of"
        )
    finally:
        kept.write_bytes(told)

    other = plan.model_copy(update={"inner": plan.inner.model_copy(update={"seed": 6})})
    assert known.consumed(other) == ((), False)


def test_text_is_measured_as_it_was_trained_on_without_what_is_protected(trained: Run, call: Call) -> None:
    root = trained.home.root
    kept = (root / "protected.toml").read_text()
    (root / "protected.toml").write_text(kept.split("[[")[0])
    try:
        code, _, err = call("node", "leakage", root, *SMALL)
    finally:
        (root / "protected.toml").write_text(kept)
    assert code != 0 and "protected.toml of node acme-1 is not what it was" in err
    withheld = [json.loads(path.read_text()) for path in root.glob("cache/tokens-*/withheld.json")]
    assert (1, 0) in [(each["train"], each["valid"]) for each in withheld]
    assert not [path for path in root.glob("cache/tokens-*") if not (path / "withheld.json").exists()], (
        "no tokens of all of the text"
    )
