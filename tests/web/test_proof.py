"""The browser's own arithmetic on proofs, run in Chromium, held against `tapestry.ledger.tree`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note
from tapestry.ledger import tree
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.protocol import canonical

SCRIPT = Path(__file__).parents[2] / "src/tapestry/web/static/proof.js"
CORE = KeyPair.generate()


class Grown:
    """A tree of small entries."""

    def __init__(self, size: int) -> None:
        first = {"sequence": 1, "type": "founded", "body": {"core_key": CORE.public_key}}
        rest = ({"sequence": at, "type": "member-admitted", "body": {}} for at in range(2, size + 1))
        self.entries = [canonical.encode(each) for each in (first, *rest)]
        self.consortium = canonical.sha256(self.entries[0])
        self.tree = tree.Tree(map(tree.leaf_hash, self.entries))

    def given(self, sequence: int, size: int) -> dict[str, Any]:
        """As the dashboard gives it to the page."""
        origin = origin_of(self.consortium)
        note = Note(Checkpoint(origin, size, self.tree.root(size)).text).signed(origin, CORE)
        return {
            "entry": self.entries[sequence - 1].decode(),
            "first": self.entries[0].decode(),
            "sequence": sequence,
            "proof": [each.hex() for each in self.tree.inclusion(sequence - 1, size)],
            "checkpoint": note.to_bytes().decode(),
            "key": CORE.public_key,
            "successions": [],
            "chain": None,
        }


GROWN = Grown(70)


@pytest.fixture(scope="module")
def page(chromium: Any) -> Iterator[Any]:
    yield (page := loaded(chromium, SCRIPT.read_text("utf-8")))
    page.close()


def loaded(chromium: Any, script: str) -> Any:
    """A page of this machine, so that Web Crypto is there, with the module's functions in `proof`."""
    page = chromium.new_page()
    page.route("**/*", lambda route: route.fulfill(body="<!doctype html><title>proof</title>"))
    page.goto("http://localhost/")
    page.evaluate(
        """async (source) => {
            const url = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
            window.proof = await import(url);
            window.checked = async (given) => {
                const steps = {};
                try {
                    const told = (step, ok, value) => { steps[step] = [ok, value]; };
                    const {verdict} = await proof.check(given, told);
                    return {verdict, steps};
                } catch (error) {
                    return {verdict: "fails", steps, error: String(error)};
                }
            };
        }""",
        script,
    )
    return page


def check(page: Any, given: dict[str, Any]) -> Any:
    return page.evaluate("(given) => checked(given)", given)


def test_every_entry_of_small_trees_is_proven(page: Any) -> None:
    cases = [(at, size) for size in (*range(1, 18), 31, 32, 33, 64, 70) for at in range(1, size + 1)]
    verdicts = page.evaluate(
        "async (all) => Promise.all(all.map(async (given) => (await checked(given)).verdict))",
        [GROWN.given(*case) for case in cases],
    )
    assert verdicts == ["holds"] * len(cases)


def test_each_step_is_what_the_ledger_reckons(page: Any) -> None:
    given = GROWN.given(11, 21)
    found = check(page, given)["steps"]
    assert found["leaf"] == [True, tree.leaf_hash(GROWN.entries[10]).hex()]
    assert found["root"] == [True, GROWN.tree.root(21).hex()]
    assert found["consortium"] == [True, GROWN.consortium]
    assert found["level-1"][1] == tree.node_hash(*map(tree.leaf_hash, GROWN.entries[10:12])).hex()
    steps = page.evaluate("([at, size, n]) => proof.path(at, size, n)", [10, 21, len(given["proof"])])
    assert [(each["side"], each["first"], each["last"]) for each in steps] == [
        ("right", 12, 12),
        ("left", 9, 10),
        ("right", 13, 16),
        ("left", 1, 8),
        ("right", 17, 21),
    ]


def spoiled() -> Iterator[tuple[str, dict[str, Any]]]:
    """One lie each."""
    good = GROWN.given(11, 21)
    other = KeyPair.generate()
    origin = origin_of(GROWN.consortium)
    forged = Note(Checkpoint(origin, 21, GROWN.tree.root(21)).text).signed(origin, other).to_bytes().decode()
    flipped = bytes.fromhex(good["proof"][2])
    flipped = bytes([flipped[0] ^ 1]) + flipped[1:]
    yield "entry", {"entry": good["entry"].replace("member-admitted", "member-admittee")}
    yield "sequence", {"sequence": 12}
    yield "another entry", {"entry": GROWN.entries[11].decode()}
    yield "hash", {"proof": [*good["proof"][:2], flipped.hex(), *good["proof"][3:]]}
    yield "short", {"proof": good["proof"][:-1]}
    yield "long", {"proof": [*good["proof"], "0" * 64]}
    yield "letters", {"proof": [each.upper() for each in good["proof"]]}
    yield "root", {"checkpoint": GROWN.given(11, 22)["checkpoint"]}
    yield "no signature", {"checkpoint": good["checkpoint"].split("\n\n")[0] + "\n\n"}
    yield "forged", {"checkpoint": forged}
    yield "forged, with its key", {"checkpoint": forged, "key": other.public_key}
    yield "foreign", {"first": GROWN.entries[1].decode()}


LIES = dict(spoiled())


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_found(page: Any, name: str) -> None:
    lie = LIES[name]
    assert check(page, GROWN.given(11, 21))["verdict"] == "holds"
    assert check(page, GROWN.given(11, 21) | lie)["verdict"] == "fails", name


def test_trees_that_begin_with_each_other_and_others(page: Any) -> None:
    rng = random.Random(7)
    pairs = [(old, new) for new in (*range(1, 12), 33, 70) for old in range(new + 1)]
    cases, expected = [], []
    for old, new in pairs:
        proof = list(GROWN.tree.consistency(old, new))
        spoilt = [os_flip(each, rng) if at == 0 else each for at, each in enumerate(proof)]
        for way, old_root in (
            (proof, GROWN.tree.root(old)),
            (spoilt, GROWN.tree.root(old)),
            (proof, rng.randbytes(32)),
        ):
            cases.append([old, old_root.hex(), new, GROWN.tree.root(new).hex(), [each.hex() for each in way]])
            try:
                tree.check_consistency(old, old_root, new, GROWN.tree.root(new), way)
                expected.append(True)
            except Exception:
                expected.append(False)
    found = page.evaluate(
        """async (cases) => Promise.all(cases.map(([old, oldRoot, size, root, way]) =>
            proof.consistent(old, proof.unhex(oldRoot), size, proof.unhex(root), way.map(proof.unhex))))""",
        cases,
    )
    wrong = [case[:3] for case, one, other in zip(cases, found, expected, strict=True) if one != other]
    # An empty tree's root is never asked about: there is nothing in it to be contradicted.
    assert [each for each in wrong if each[0]] == []
    assert {True, False} <= set(expected)


def os_flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_browser_without_ed25519_says_so(page: Any) -> None:
    page.evaluate(
        """() => { window.kept = crypto.subtle.importKey;
            crypto.subtle.importKey = async () => { throw new DOMException("no", "NotSupportedError"); }; }"""
    )
    try:
        found = check(page, GROWN.given(11, 21))
    finally:
        page.evaluate("() => { crypto.subtle.importKey = window.kept; }")
    assert found["verdict"] == "partly" and found["steps"]["signature"][0] is None
