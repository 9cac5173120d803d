"""Accounts and certificates with the commands that people type, on the ledger of a real core."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.audit.papers import countersign, with_signature
from tapestry.cli.basefile import base_of
from tapestry.errors import EntitlementError, InputError
from tapestry.identity.keys import KeyPair
from tapestry.node.member import member_init
from tapestry.node.setup import Consortium
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, Blob
from tapestry.protocol.layout import Layout, Tensor
from tapestry.rounds.weights import UNIT
from tests.audit.council import Council
from tests.audit.released import grants, released, signed
from tests.cli.conftest import Call


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Council]:
    made = released(tmp_path / "core")
    with made.core:
        made.dispute("cyd", round=2, what="availability", claim="we were there", reason="our line was down")
        yield made


@pytest.fixture
def file(scene: Council, tmp_path: Path) -> Path:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(scene.ledger().to_bytes())
    return path


def folder(scene: Council, name: str, key: KeyPair | None = None) -> Path:
    """A member's, as `tapestry member key vote` leaves it."""
    path = scene.root.parent / name
    member_init(path, name)
    joined = Consortium(
        core_url="http://127.0.0.1:9",
        consortium=scene.consortium,
        core_key=scene.core.consortium.core_key.public_key,
        root_key=scene.nodes[name].root.public_key,
        ca=None,
    )
    (path / "consortium.json").write_bytes(joined.to_bytes())
    (path / "vote.key").write_bytes((key or scene.nodes[name].vote).to_pem())
    return path


def test_the_account_as_table_csv_and_json(scene: Council, file: Path, call: Call) -> None:
    code, out, err = call("account", "show", scene.root)
    assert code == 0 and "no" in err and "token or a currency" in err
    assert "cyd" in out and "all" in out and "%" in out
    code, out, _ = call("account", "show", file, "--run", "run", "--json")
    (run,) = json.loads(out)["runs"]
    assert sum(each["weight"] for each in run["members"].values()) == 3 * UNIT
    code, out, _ = call("account", "show", file, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["run"] for row in rows] == ["run"] * 3 + [""] * 3
    assert {row["member"]: row["tokens"] for row in rows} == {"ada": "1500", "bob": "3000", "cyd": "1500"}
    code, out, _ = call("account", "show", file, "--rounds", "--csv", "--no-verify")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 9 and [row["accepted"] for row in rows if row["member"] == "cyd"] == ["1", "0", "0"]
    assert sum(int(row["plausible_ms"]) for row in rows) == sum(int(row["claimed_ms"]) for row in rows)
    assert "none" in call("account", "show", file, "--rounds")[1]
    code, _, err = call("account", "show", file, "--run", "other")
    assert code == 5 and "no run other" in err


def test_a_statement_shows_what_was_disputed(file: Path, call: Call) -> None:
    code, out, _ = call("account", "statement", file, "--member", "cyd")
    assert code == 0 and "1 of 3 expected" in out
    assert "disputed by cyd" in out and "availability in round 2 of run run should be: we were there" in out
    said = json.loads(call("account", "statement", file, "--member", "cyd", "--json")[1])
    assert said["disputes"][0]["reason"] == "our line was down" and len(said["rounds"]) == 3
    assert said["runs"][0]["members"].keys() == {"cyd"}
    assert "nobody has disputed" in call("account", "statement", file, "--member", "ada")[2]
    assert call("account", "statement", file, "--member", "dan")[0] == 5


def test_a_dispute_writes_no_lines_of_its_own_and_is_never_hidden(scene: Council, call: Call) -> None:
    """What a member says is shown as what it says, also of who took part in nothing."""
    forged = "in merges                       0, 0.00 % of all weight"
    scene.dispute("bob", about="ada", reason=f"look:\n{forged}")
    scene.dispute("dan", what="availability", claim="3 rounds", reason="we were never let in")
    code, out, _ = call("account", "statement", scene.root, "--member", "ada")
    assert code == 0 and "disputed by bob" in out and f"look: {forged}" in out
    assert sum(line.startswith("in merges") for line in out.splitlines()) == 1
    code, out, _ = call("account", "statement", scene.root, "--member", "dan")
    assert code == 0 and "disputed by dan" in out and "we were never let in" in out
    assert json.loads(call("account", "statement", scene.root, "--member", "dan", "--json")[1])["disputes"]
    assert "1 times" in call("account", "statement", scene.root, "--member", "ada", "--csv")[2]


def test_the_base_in_a_model_directory(tmp_path: Path) -> None:
    layout = Layout(
        shard_bytes=4096, tensors=(Tensor(name="a", shape=(999, 3)), Tensor(name="b", shape=(7,)))
    )
    data = bytes(i * i % 251 for i in range(4 * layout.elements))
    blobs, at = [], 0
    for shard in layout.shards:
        whole = shard.header + data[at : at + shard.data_bytes]
        blobs.append(Blob(sha256=canonical.sha256(whole), bytes=len(whole)))
        at += shard.data_bytes
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(layout.whole_header + data)
    assert len(blobs) > 2
    base = Artifact(kind="base", layout=layout.digest, shards=tuple(blobs)).digest
    assert base_of(tmp_path, layout.digest) == base
    weights.write_bytes(layout.whole_header + data[:-1] + b"x")
    assert base_of(tmp_path, layout.digest) != base
    with pytest.raises(EntitlementError, match="another model"):
        base_of(tmp_path, "7" * 64)
    deep = b"[" * 100_000
    for wrong in (
        b"", b"{}", (5).to_bytes(8, "little") + b"[1,2]", (1 << 62).to_bytes(8, "little"),
        len(deep).to_bytes(8, "little") + deep, layout.whole_header + data + b"x",
    ):  # fmt: skip
        weights.write_bytes(wrong)
        with pytest.raises((InputError, EntitlementError)):
            base_of(tmp_path, layout.digest)
    with pytest.raises(InputError, match="cannot read"):
        base_of(tmp_path / "no", layout.digest)


def test_a_header_that_points_elsewhere_is_of_no_base(tmp_path: Path) -> None:
    """The bytes of the base, in its order; but who loads the file finds two tensors in each other's place, or
    other numbers in them."""
    layout = Layout(
        shard_bytes=4096, tensors=(Tensor(name="a", shape=(5, 3)), Tensor(name="b", shape=(5, 3)))
    )
    data = bytes(i * i % 251 for i in range(4 * layout.elements))
    weights, header = tmp_path / "model.safetensors", layout.whole_header
    weights.write_bytes(header + data)
    assert base_of(tmp_path, layout.digest)
    own, other = b"[0,60]", b"[60,120]"
    swapped = header.replace(own, b"?").replace(other, own).replace(b"?", other)
    for lie in (swapped, header.replace(b'"F32"', b'"I32"'), header.replace(b'"pt"', b'"tf"')):
        assert len(lie) == len(header) and lie != header
        weights.write_bytes(lie + data)
        with pytest.raises(InputError, match="not written as tapestry run export does"):
            base_of(tmp_path, layout.digest)


def test_certificates_from_making_to_checking(scene: Council, file: Path, call: Call, tmp_path: Path) -> None:
    def ask(*arguments: object, fails: int = 0) -> Any:
        code, out, err = call(*arguments, "--json")
        assert code == fails, (arguments, out, err)
        return json.loads(out) if not fails else err

    listed = ask("entitlement", "list", file)["releases"][0]
    assert {each["member"]: each["granted"] for each in listed["members"]} == {
        "ada": True, "bob": True, "cyd": False, "dan": False,
    }  # fmt: skip
    assert "it gave 1 of 2 rounds" in call("entitlement", "list", scene.root)[1]
    every = ask("entitlement", "make", file, "--release", "one", "--out", tmp_path / "all")
    assert [Path(each["file"]).name for each in every["certificates"]] == ["ada.json", "bob.json"]
    paper = tmp_path / "bob.json"
    ask("entitlement", "make", scene.root, "--release", "one", "--member", "bob", "--out", paper)
    assert paper.read_bytes() == (tmp_path / "all" / "bob.json").read_bytes()
    no = ask("entitlement", "make", file, "--release", "one", "--member", "cyd", "--out", paper, fails=5)
    assert "cyd has no right" in no and "tapestry entitlement list" in no

    other = ask("entitlement", "make", file, "--release", "one", "--member", "ada", "--out", paper, fails=2)
    assert "another certificate than that of ada" in other
    key = scene.core.consortium.core_key.public_key
    few = ask("entitlement", "verify", paper, "--core-key", key, fails=3)
    assert "0 countersignatures" in few and "tapestry entitlement sign" in few
    for name in ("cyd", "ada"):
        holder = folder(scene, name)
        ask("entitlement", "sign", paper, "--member", holder, "--ledger", file)
    copies = []
    for name in ("ada", "cyd"):
        copies.append(tmp_path / f"by-{name}.json")
        copies[-1].write_bytes((tmp_path / "all" / "bob.json").read_bytes())
        ask("entitlement", "sign", copies[-1], "--member", tmp_path / name, "--ledger", file)
    scene.dispute("ada", about="bob")  # the ledger has grown, so the proofs are others
    together = ("entitlement", "make", scene.root, "--release", "one", "--member", "bob")
    given = [word for copy in copies for word in ("--signed", copy)]
    ask(*together, "--out", tmp_path / "together.json", *given)
    assert ask("entitlement", "verify", tmp_path / "together.json", "--core-key", key)["signed"] == [
        "ada",
        "cyd",
    ]
    newer = tmp_path / "newer.json"
    newer.write_bytes(paper.read_bytes())
    ask(*together, "--out", newer)
    assert newer.read_bytes() == (tmp_path / "together.json").read_bytes() != paper.read_bytes()
    wrong = folder(scene, "bob", KeyPair.generate())
    assert "was not the vote key" in ask(
        "entitlement", "sign", paper, "--member", wrong, "--ledger", file, fails=4
    )
    assert "was not the vote key" in ask(
        "entitlement", "sign", paper, "--member", folder(scene, "dan"), "--ledger", file, fails=4
    )
    found = ask("entitlement", "verify", paper, "--core-key", key)
    assert found["signed"] == ["ada", "cyd"] and not found["recomputed"]
    assert ask("entitlement", "verify", paper, "--root", found["head"]["root"])["holds"]
    assert ask("entitlement", "verify", paper, "--ledger", file)["recomputed"]
    base = found["certificate"]["base"]["base"]
    assert ask("entitlement", "verify", paper, "--core-key", key, "--base", base)["holds"]
    other = ask("entitlement", "verify", paper, "--core-key", key, "--base", "7" * 64, fails=3)
    assert "not for 777777777777" in other and "a certificate of its own" in other
    assert "--core-key" in ask("entitlement", "verify", paper, fails=2)
    assert "neither a hash" in ask("entitlement", "verify", paper, "--core-key", key, "--base", "x", fails=2)
    code, out, err = call("entitlement", "verify", paper, "--core-key", key)
    assert code == 0 and "own what it derives" in out and "ada, cyd" in out and "--ledger" in err

    text = paper.read_text().replace('"tokens":3000', '"tokens":9000')
    paper.write_text(text)
    inflated = ask("entitlement", "sign", paper, "--member", tmp_path / "ada", "--ledger", file, fails=3)
    assert "the ledger gives another certificate for bob: given differs" in inflated
    paper.write_text("{}\n")
    assert ask("entitlement", "verify", paper, "--core-key", key, fails=3)
    assert "cannot read" in ask("entitlement", "verify", tmp_path / "no", "--core-key", key, fails=2)


def test_a_signature_that_is_none_is_left_out(scene: Council, file: Path, call: Call, tmp_path: Path) -> None:
    """Whoever has the file can put something under it by which it fails: the next one who makes or signs it
    takes that away, and what was good before stays."""
    key, path, bad = scene.core.consortium.core_key.public_key, tmp_path / "bob.json", tmp_path / "bad.json"
    make = ("entitlement", "make", file, "--release", "one", "--member", "bob", "--out", path)
    check = ("entitlement", "verify", path, "--core-key", key)
    bare = grants(scene.ledger()).paper("one", "bob")
    another = bare.certificate.model_copy(update={"release": "two"})
    ada = countersign(another, "ada", scene.nodes["ada"].vote)
    cyd = countersign(bare.certificate, "cyd", KeyPair.generate())
    hostile = with_signature(with_signature(bare, ada), cyd)
    for each in (path, bad):
        each.write_bytes(hostile.to_bytes() + b"\n")
    assert call(*check)[0] == 3
    code, _, err = call(*make)
    assert code == 0 and "signature of ada is not good" in err and "signature of cyd is not good" in err
    assert "0 countersignatures" in call(*check)[2]
    path.write_bytes(signed(bare, scene, "ada", "cyd").to_bytes() + b"\n")
    assert call(*make, "--signed", bad)[0] == 0 and call(*check)[0] == 0

    path.write_bytes(with_signature(signed(bare, scene, "cyd"), ada).to_bytes() + b"\n")
    assert call(*check)[0] == 3
    sign = ("entitlement", "sign", path, "--ledger", file, "--member")
    assert "signed by cyd; 2 are needed" in call(*sign, folder(scene, "cyd"))[2]
    assert "signed by ada, cyd; 2 are needed" in call(*sign, folder(scene, "ada"))[2]
    assert call(*check)[0] == 0


def test_what_is_typed_wrong_is_named(scene: Council, file: Path, call: Call, tmp_path: Path) -> None:
    dispute = ("account", "dispute", "--member", folder(scene, "ada"), "--what", "tokens", "--reason", "so")
    for run, claim in (("No Name", "1"), ("run", "x" * 201), ("run", "two\nlines")):
        code, _, err = call(*dispute, "--run", run, "--claim", claim)
        assert code == 2 and "cannot be disputed" in err and "hint" in err
    make = ("entitlement", "make", file, "--release", "one", "--out")
    code, _, err = call(*make, file)
    assert code == 2 and "is no folder" in err
    code, _, err = call(*make, tmp_path, "--member", "bob")
    assert code == 2 and "is a folder" in err
    paper = tmp_path / "new" / "bob.json"
    assert call(*make, paper, "--member", "bob")[0] == 0
    for option in ("--core-key", "--root", "--consortium"):
        code, _, err = call("entitlement", "verify", paper, option, "7" * 32)
        assert code == 2 and f"{option} takes 64 hexadecimal digits" in err
    paper.write_bytes(paper.read_bytes()[:-1])
    code, _, err = call("entitlement", "verify", paper, "--core-key", "7" * 64)
    assert code == 3 and "was cut off" in err
