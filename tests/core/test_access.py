"""Who gets in, and who does not."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tapestry.core import operator
from tapestry.errors import Conflict, InputError, PlanError
from tapestry.identity.keyring import make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.protocol import canonical
from tapestry.protocol.clock import parse_time
from tapestry.protocol.views import Hello
from tests.core.support import CoreUnderTest, Member, as_json, code, make_plan, time_at


def test_hello_and_what_is_on_every_answer(serving: CoreUnderTest) -> None:
    answer = httpx.get(serving.url + "/v1/hello")
    hello = Hello.from_bytes(answer.content)
    assert hello.consortium == serving.consortium
    assert hello.formats["tapestry.contribution"] == [1]
    assert "server" not in answer.headers
    for path in (
        "/v1/hello",
        "/v1/members",
        "/docs",
        "/openapi.json",
        "/redoc",
        "/",
        "/v1/blobs/../../core.toml",
    ):
        answer = httpx.get(serving.url + path)
        parse_time(answer.headers["Tapestry-Time"])
        assert answer.headers["content-type"] == "application/json"
        if answer.status_code != 200:
            assert answer.json()["error"]["code"] in ("not-found", "auth")
    assert httpx.delete(serving.url + "/v1/hello").status_code == 405


def test_invitations_are_for_one_member_once(serving: CoreUnderTest) -> None:
    ada = serving.member("ada", join=False)
    token = operator.invite(serving.root, "ada")
    mallory = serving.member("mallory", join=False)
    assert code(mallory.join(token)) == "invitation"
    assert code(ada.join("0" * 40)) == "invitation"
    certificate = ada.certificate()
    first = ada.join(token, certificate)
    assert first.status_code == 200
    assert ada.join(token, certificate).content == first.content  # the same member again
    assert code(ada.join(token, ada.certificate(expires_s=7200))) == "key"  # one certificate a key
    other = serving.members["other"] = Member("ada", serving.consortium, url=serving.url)
    assert code(other.join(token)) == "conflict"
    replayed = serving.member("eve", join=False)
    replayed.name = "ada"
    assert code(replayed.join(token)) == "conflict"
    assert ada.ask("GET", "/v1/members").json()["members"][0]["member"] == "ada"


def test_a_join_is_all_or_nothing(serving: CoreUnderTest) -> None:
    ada = serving.member("ada", join=False)
    token = operator.invite(serving.root, "ada")
    forged = Member("ada", serving.consortium).certificate()
    answer = ada.join(token, ada.certificate(), forged)
    assert code(answer) in ("unknown-member", "signature", "key")
    assert ada.ask("GET", "/v1/members").status_code == 403
    assert ada.join(token).status_code == 200


def test_proofs(serving: CoreUnderTest) -> None:
    ada = serving.member("ada")
    path, empty = "/v1/derivatives", canonical.sha256(b"")

    def send(proof: str | None, target: str = path) -> httpx.Response:
        headers = {"Authorization": proof} if proof is not None else {}
        return ada.http.get(ada.url + target, headers=headers)

    assert send(ada.proof("GET", path, empty)).status_code == 200
    assert code(send(None)) == "auth"
    assert code(send("Bearer abc")) in ("format", "auth")
    assert code(send("Tapestry !!!")) == "format"
    assert code(send(ada.proof("POST", path, empty))) == "signature"
    assert code(send(ada.proof("GET", "/v1/runs", empty))) == "signature"
    assert code(send(ada.proof("GET", path, empty), path + "?a=1")) == "signature"
    assert code(send(ada.proof("GET", path, "1" * 64))) == "signature"
    assert code(send(ada.proof("GET", path, empty, consortium="1" * 64))) == "signature"
    for offset_s in (-400.0, 400.0):
        stale = send(ada.proof("GET", path, empty, at=time_at(offset_s)))
        assert (stale.status_code, code(stale)) == (401, "signature")
        parse_time(stale.headers["Tapestry-Time"])
    assert send(ada.proof("GET", path, empty, at=time_at(-250.0))).status_code == 200
    stranger = serving.member("stranger", join=False)
    answer = stranger.ask("GET", path)
    assert (answer.status_code, code(answer)) == (403, "unknown-member")


def test_revoked_and_rotated_keys(serving: CoreUnderTest, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "made")
    ada, bob = serving.running(plan, tmp_path / "made", "ada", "bob")
    envelope = ada.contribution(plan, "1" * 64)
    old, new = ada.key, KeyPair.generate()
    body = canonical.encode({"certificate": as_json(ada.certificate(new))})
    first = ada.ask("POST", "/v1/keys", body)
    assert first.json() == {"key_id": new.key_id, "member": "ada"}
    assert ada.ask("POST", "/v1/keys", body).content == first.content
    ada.key = new
    revocation = make_revocation(ada.root, member="ada", revoked=old.key_id, reason="rotated")
    body = canonical.encode({"revocation": as_json(revocation)})
    assert ada.ask("POST", "/v1/keys", body).status_code == 200
    assert ada.ask("POST", "/v1/keys", body).status_code == 200
    # in the middle of the round: the new key goes on, what the old one signed is refused
    assert ada.view().enrolled == ("ada-1", "bob-1")
    assert code(ada.contribute(envelope)) == "key"
    ada.key = old
    assert code(ada.ask("GET", "/v1/members")) == "key"
    ada.key = new
    ada.hand_in(plan, 0.5)
    # the last key gone: the node is expected no more
    revocation = make_revocation(bob.root, member="bob", revoked=bob.key.key_id, reason="compromised")
    ada.ask("POST", "/v1/keys", canonical.encode({"revocation": as_json(revocation)}))
    assert ada.wait(lambda v: v.enrolled == ("ada-1",)).current is not None
    assert code(bob.ask("GET", "/v1/members")) == "key"
    keys = {
        k["key_id"]: k["revoked"] for m in ada.ask("GET", "/v1/members").json()["members"] for k in m["keys"]
    }
    assert keys[new.key_id] is None and keys[old.key_id] and keys[bob.key.key_id]


def test_an_expired_key(serving: CoreUnderTest) -> None:
    import time

    ada = serving.member("ada", join=False)
    assert ada.join(operator.invite(serving.root, "ada"), ada.certificate(expires_s=2)).status_code == 200
    assert ada.ask("GET", "/v1/members").status_code == 200
    time.sleep(2.1)
    assert code(ada.ask("GET", "/v1/members")) == "key"
    # the root key is what remains: joining again brings a new certificate
    ada.key = KeyPair.generate()
    assert ada.join("0" * 40).status_code == 200
    assert ada.ask("GET", "/v1/members").status_code == 200


def test_bodies_that_are_not_canonical_or_not_asked_for(serving: CoreUnderTest) -> None:
    ada = serving.member("ada")
    assert code(ada.ask("POST", "/v1/blobs/missing", b'{"blobs": []}')) == "format"
    assert code(ada.ask("POST", "/v1/blobs/missing", b'{"blobs":[],"more":1}')) == "format"
    assert code(ada.ask("POST", "/v1/blobs/missing", b'{"blobs":["../x"]}')) == "format"
    assert code(ada.ask("POST", "/v1/blobs/missing", b"[" * 100_000)) == "format"
    assert code(ada.ask("POST", "/v1/keys", b"{}")) == "format"
    assert code(ada.ask("POST", "/v1/keys", b'{"certificate":{}}')) == "format"
    assert code(ada.ask("GET", "/v1/runs?x=1")) == "format"
    assert code(ada.ask("GET", "/v1/events?after=-1")) == "format"
    assert code(ada.ask("GET", "/v1/events?after=1&after=2")) == "format"
    assert code(ada.ask("GET", "/v1/runs/none")) == "not-found"
    assert code(ada.ask("GET", "/v1/runs/consortium")) == "not-found"
    assert code(ada.ask("GET", "/v1/runs/none/rounds/x")) == "not-found"
    gzip = ada.ask("POST", "/v1/blobs/missing", b'{"blobs":[]}', headers={"Content-Encoding": "gzip"})
    assert code(gzip) == "format"


def test_what_the_operator_may_not_do(core: CoreUnderTest, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "made")
    with pytest.raises(PlanError, match="is not here"):
        operator.plan(core.root, plan)
    operator.plan(core.root, plan, tmp_path / "made")
    operator.plan(core.root, plan, tmp_path / "made")
    with pytest.raises(Conflict):
        operator.plan(core.root, plan.model_copy(update={"title": "other"}))
    with pytest.raises(PlanError, match="parameters"):
        operator.plan(core.root, plan.model_copy(update={"run": "run2", "parameters": 7}))
    with pytest.raises(PlanError, match=r"state\.run"):
        operator.plan(core.root, plan.model_copy(update={"run": "run2"}))
    with pytest.raises(PlanError, match="consortium"):
        operator.plan(core.root, plan.model_copy(update={"run": "consortium"}))
    with pytest.raises(PlanError, match="model"):
        operator.revise(core.root, plan.model_copy(update={"revision": 2, "model": "1" * 64}))
    with pytest.raises(InputError, match="name"):
        operator.invite(core.root, "No Name")
