"""The browser follows the core's key, from entry to entry in which most members have signed for another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tapestry.governance import proposal as subjects
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import make_certificate
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note
from tapestry.ledger import tree
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.protocol import canonical
from tapestry.protocol.messages import Succession
from tapestry.web import succession
from tapestry.web.app import make_app
from tests.web.served import served
from tests.web.test_proof import SCRIPT, check, loaded
from tests.web.world import SHOWN, Dashboard, World

NAMES = ("ada", "bob", "cyd", "dan")
AT, LATER, LONG_AFTER = (f"20{year}-05-01T12:00:00.000Z" for year in (26, 27, 28))
KEYS = {name: (KeyPair.generate(), KeyPair.generate()) for name in NAMES}
CORE, NEW, OTHER = (KeyPair.generate() for _ in range(3))
SEARCH = "await succeeded(told, note, entry)"
BELIEVES = '{ key: entry(told.sequence, "core-succeeded", Infinity).body.core_key, value: "" }'
"""What stands in its place where a new key is taken as it comes."""
LIES = (
    "half of them", "one twice", "a node's key", "a key that holds later", "a certificate of a stranger's",
    "another key", "another ledger", "another member's name", "another node", "a signature that is not one",
    "a key without a certificate", "a certificate that comes later", "another ledger before",
    "a member who is another",
)  # fmt: skip


class Made:
    """A ledger in which another key takes the core's place, told as the dashboard tells it; with one lie."""

    def __init__(self, lie: str = "") -> None:
        self.lie = lie
        self.entries: list[bytes] = []
        self._tree = tree.Tree()
        self.add("founded", title="", core_key=CORE.public_key, nonce="0" * 32)
        self.consortium = canonical.sha256(self.entries[0])
        self.admitted = {
            name: self.add("member-admitted", member=name, root_key=KEYS[name][0].public_key, envelope="")
            for name in NAMES
        }
        late = "cyd" if lie == "a certificate that comes later" else ""
        certified = {name: self._certify(name) for name in NAMES if name != late}
        self.add("account-disputed")
        size, root = len(self.entries), self._tree.root()
        signers = {"half of them": NAMES[:2], "one twice": ("ada", "bob", "bob")}.get(lie, NAMES[:3])
        words = [self._word(name, size, root.hex()).to_bytes().decode() for name in signers]
        self.changed = self.add("core-succeeded", core_key=NEW.public_key, envelopes=words)
        if late:
            certified[late] = self._certify(late)
        self.add("account-disputed")
        self.given = self._told(size, certified)

    def add(self, type_: str, **body: Any) -> int:
        sequence = len(self.entries) + 1
        told = {"sequence": sequence, "at": AT, "scope": "consortium", "type": type_, "body": body}
        self.entries.append(canonical.encode(told))
        self._tree.add(tree.leaf_hash(self.entries[-1]))
        return sequence

    def _certify(self, name: str) -> int:
        (root, key), of_cyd = KEYS[name], name == "cyd"
        envelope = make_certificate(
            OTHER if of_cyd and self.lie == "a certificate of a stranger's" else root,
            member=name,
            node=f"{name}-1",
            role="node" if of_cyd and self.lie == "a node's key" else "witness",
            public_key=key.public_key,
            not_before=LATER if of_cyd and self.lie == "a key that holds later" else AT,
            expires=LONG_AFTER,
        )
        return self.add(
            "key-certified", member=name, key_id=key.key_id, envelope=envelope.to_bytes().decode()
        )

    def _word(self, name: str, size: int, root: str) -> Envelope:
        lie = self.lie if name == "cyd" else ""
        said = Succession(
            consortium=self.consortium,
            member="dan" if lie == "another member's name" else name,
            node="dan-1" if lie == "another node" else f"{name}-1",
            core_key=OTHER.public_key if lie == "another key" else NEW.public_key,
            size=size,
            root="0" * 64 if lie == "another ledger" else root,
        )
        key = OTHER if lie == "a key without a certificate" else KEYS[name][1]
        word = sign(said, key)
        if lie == "a signature that is not one":
            (held,) = word.signatures
            (forged,) = sign(said.model_copy(update={"size": size + 1}), key).signatures
            assert held.sig != forged.sig
            word = word.model_copy(update={"signatures": (forged,)})
        return word

    def _told(self, before: int, certified: dict[str, int]) -> dict[str, Any]:
        size, origin = len(self.entries), origin_of(self.consortium)
        note = Note(Checkpoint(origin, size, self._tree.root()).text).signed(origin, NEW)

        def proof(sequence: int) -> list[str]:
            return [each.hex() for each in self._tree.inclusion(sequence - 1)]

        members = {name: [at] for name, at in self.admitted.items()}
        if self.lie == "a member who is another":  # so that two of two have signed
            members = {name: members[name] for name in ("ada", "bob")} | {"cyd": members["ada"]}
        old = before - 1 if self.lie == "another ledger before" else before
        told = {
            "sequence": self.changed,
            "consistency": [each.hex() for each in self._tree.consistency(old)],
            "members": members,
            "certificates": {KEYS[name][1].key_id: at for name, at in certified.items()},
        }
        entries = {
            str(at): {"entry": self.entries[at - 1].decode(), "proof": proof(at)}
            for at in (*self.admitted.values(), *certified.values(), self.changed)
        }
        return {
            "entry": self.entries[2].decode(),
            "first": self.entries[0].decode(),
            "sequence": 3,
            "proof": proof(3),
            "checkpoint": note.to_bytes().decode(),
            "key": NEW.public_key,
            "successions": [self.changed],
            "chain": {"size": size, "successions": [told], "entries": entries},
        }


@pytest.fixture(scope="module")
def page(chromium: Any) -> Iterator[Any]:
    yield (page := loaded(chromium, SCRIPT.read_text("utf-8")))
    page.close()


@pytest.fixture(scope="module")
def trusting(chromium: Any) -> Iterator[Any]:
    """The control: the same page, that takes a new key as it comes."""
    script = SCRIPT.read_text("utf-8")
    assert script.count(SEARCH) == 1
    yield (page := loaded(chromium, script.replace(SEARCH, BELIEVES)))
    page.close()


def test_a_key_that_most_members_have_signed_for(page: Any) -> None:
    made = Made()
    found = check(page, made.given)
    assert found["verdict"] == "holds", found
    assert found["steps"][f"succession-{made.changed}"] == [True, "3/4: ada, bob, cyd"]
    assert found["steps"]["key"] == [True, NEW.public_key]


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_who_has_signed_is_found(page: Any, trusting: Any, lie: str) -> None:
    """The control: a browser that does not look says that it holds."""
    made = Made(lie)
    found = check(page, made.given)
    assert found["verdict"] == "fails" and found["steps"][f"succession-{made.changed}"][0] is False, found
    assert check(trusting, made.given)["verdict"] == "holds"


def _spoiled(what: str) -> dict[str, Any]:
    made = Made()
    given, chain = made.given, made.given["chain"]
    match what:
        case "an entry that is not there":
            told = chain["entries"][str(made.admitted["dan"])]
            told["entry"] = told["entry"].replace('"dan"', '"eve"')
        case "an entry at another place":
            entries = chain["entries"]
            one, other = (str(made.admitted[name]) for name in ("ada", "bob"))
            entries[one], entries[other] = entries[other], entries[one]
        case "no such change":
            chain["successions"] = []
        case "a key that none was told of":
            given |= {"successions": [], "chain": None}
        case "the key before":
            given["key"] = CORE.public_key
    return given


@pytest.mark.parametrize(
    "what",
    ["an entry that is not there", "an entry at another place", "no such change",
     "a key that none was told of", "the key before"],
)  # fmt: skip
def test_what_was_not_proven_is_not_read(page: Any, what: str) -> None:
    assert check(page, _spoiled(what))["verdict"] == "fails"


def test_what_is_not_given_is_not_said_to_hold(page: Any) -> None:
    made = Made()
    found = check(page, made.given | {"chain": None})
    assert found["verdict"] == "partly" and found["steps"][f"succession-{made.changed}"][0] is None


def test_a_browser_without_ed25519_says_of_each_signature_that_it_did_not_look(page: Any) -> None:
    made = Made()
    page.evaluate(
        """() => { window.kept = crypto.subtle.importKey;
            crypto.subtle.importKey = async () => { throw new DOMException("no", "NotSupportedError"); }; }"""
    )
    try:
        found = check(page, made.given)
    finally:
        page.evaluate("() => { crypto.subtle.importKey = window.kept; }")
    assert found["verdict"] == "partly"
    assert found["steps"]["signature"][0] is None and found["steps"][f"succession-{made.changed}"][0] is None


@pytest.fixture(scope="module")
def succeeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """The core's key has changed twice; in between a member was expelled, and one has another root key."""
    folder = tmp_path_factory.mktemp("succeeded")
    with (world := World(folder / "core")).core:
        world.adopt(public=dict.fromkeys(SHOWN, "public"))
        nodes = world.nodes
        world.succeed(nodes["ada"], nodes["bob"], nodes["dan"])
        world.passed(subjects.Expel(member="dan"), "dan")
        new = KeyPair.generate()
        world.passed(subjects.ReplaceRootKey(member="bob", root_key=new.public_key), "bob", "dan")
        nodes["bob"].root, nodes["bob"].witness = new, KeyPair.generate()
        world.core.consortium.certify(nodes["bob"].certificate(nodes["bob"].witness, "witness"))
        world.succeed(nodes["bob"], nodes["cyd"])
        yield Dashboard(world, folder)


def test_a_core_that_had_three_keys(page: Any, succeeded: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(make_app(succeeded.site), base_url="http://127.0.0.1") as client:
        shown = client.get("/en/ledger/4").text
        given = client.get("/en/ledger/4/proof").json()
        numbers, size = given["successions"], given["size"]
        assert len(numbers) == 2 and all(f'data-step="succession-{each}"' in shown for each in numbers)
        chain = client.get(f"/en/ledger/successions?size={size}").json()
        assert client.get("/en/ledger/successions?size=0").status_code == 404
        assert client.get(f"/en/ledger/successions?size={size + 1}").status_code == 404
        with monkeypatch.context() as few:
            few.setattr(succession, "MAX_ENTRIES", 3)
            assert client.get(f"/en/ledger/successions?size={size - 1}").status_code == 404
    found = check(page, given | {"chain": chain})
    assert found["verdict"] == "holds", found
    said = [found["steps"][f"succession-{each}"][1].partition(":")[0] for each in numbers]
    assert said == ["3/4", "2/3"]
    assert given["key"] == succeeded.world.core.consortium.core_key.public_key


def test_the_page_shows_each_change_of_the_key(chromium: Any, succeeded: Dashboard) -> None:
    with served(make_app(succeeded.site)) as url:
        page = chromium.new_context().new_page()
        page.goto(f"{url}/en/ledger/4")
        page.route("**/successions*", lambda route: route.fulfill(status=404))
        page.click("[data-verify]")
        page.wait_for_selector("[data-verdict][data-ok=partly]")
        said = page.inner_text('[data-step^="succession-"] >> nth=0')
        assert "does not give what it takes" in said and "Ed25519" not in said
        assert page.evaluate("Object.keys(localStorage).length") == 0, "it is not what is held against others"
        page.unroute("**/successions*")
        page.click("[data-verify]")
        page.wait_for_selector("[data-verdict][data-ok=holds]")
        assert page.locator('[data-step^="succession-"][data-ok="true"]').count() == 2
        page.context.close()
