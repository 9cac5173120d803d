"""Who takes part, their keys, and the charters they may change to."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tapestry.governance import proposal as subjects
from tapestry.governance.charter import Charter
from tapestry.governance.proposal import Subject
from tapestry.governance.state import Governance
from tapestry.identity.keys import KeyPair
from tests.governance import made

HERE: Final = "7" * 64
START: Final = "2026-05-01T12:00:00.000Z"
FOUNDERS: Final = ("ada", "bob", "cyd", "dan", "eve")
GUESTS: Final = ("fay", "gil")
EVERYBODY: Final = (*FOUNDERS, *GUESTS)
KINDS: Final = (
    *("suspend", "expel", "hear-appeal", "change-charter", "change-charter", "admit", "replace-root-key"),
    *("open-phase", "ratify-plan", "accept-release", "revoke-release", "appoint-operator"),
)
USUAL: Final[dict[str, Any]] = {"approval": "more than 1/2", "quorum": "at least 1/2", "voting": "1 minute"}
HARD: Final[dict[str, Any]] = {"approval": "at least 2/3", "of": "all", "voting": "2 minutes"}
BY: Final[dict[str, Any]] = {"weights": "contribution", "equal_part": "1/2", "cap": "1/4"}
CHARTERS: Final[tuple[dict[str, Any], ...]] = (
    {"usual": USUAL, "kinds": {"change-charter": HARD, "expel": HARD}},
    {"usual": {**USUAL, "quorum": "at least 1/4"}},
    {"usual": {**USUAL, "of": "all", "yes_members": 3}},
    {"usual": {**USUAL, "interested": "votes"}, "kinds": {"change-charter": {"voting": "2 minutes"}}},
    {"usual": USUAL, "voting": {"cap": "1/4"}, "seats": (2, 2, 1, 1, 1)},
    {"usual": {**USUAL, "quorum_of": "votes"}, "voting": {"cap": "1/3"}, "seats": (3, 2, 2, 1, 0)},
    {"usual": USUAL, "voting": BY, "contribution": {"window_rounds": 3}},
    {"usual": {**USUAL, "quorum_of": "votes"}, "voting": BY, "contribution": {"measure": "weight"}},
    {"usual": USUAL, "roles": {"eve": ("auditor",)}, "seats": (1, 1, 1, 1, 0), "guests": True},
    {
        "usual": USUAL,
        "kinds": {"open-phase": {"proposers": ("steward",)}},
        "roles": {"ada": ("steward",), "bob": ("member", "steward")},
    },
)
"""Rules that a charter may have, or be changed to."""
FIRST: Final = tuple(number for number, rules in enumerate(CHARTERS) if "guests" not in rules)
"""A first charter names nobody who has not joined."""


@lru_cache(maxsize=512)
def key(name: str) -> KeyPair:
    return KeyPair(Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest()))


@lru_cache(maxsize=256)
def charter(which: int, revision: int) -> Charter:
    rules = CHARTERS[which]
    names = (*FOUNDERS, "fay") if rules.get("guests") else FOUNDERS
    seats = (*rules.get("seats", (1,) * len(FOUNDERS)), 1)
    members = {
        name: {
            "seats": seat,
            "roles": rules.get("roles", {}).get(name, ("member",) if seat else ("auditor",)),
        }
        for name, seat in zip(names, seats, strict=False)
    }
    value = made.value(
        (1,) * len(names),
        usual=rules["usual"],
        kinds=rules.get("kinds"),
        members=members,
        release={"signatures": 2, "holders": FOUNDERS[:3]},
        deadlines={"suspension": "5 minutes", "appeal": "4 minutes"},
        contribution=rules.get("contribution", {}),
    )
    value["voting"] |= rules.get("voting", {})
    return Charter.model_validate(value | {"revision": revision})


def subject(governance: Governance, kind: str, about: str, number: int, root_key: str) -> Subject:
    """What is asked, of that kind; most of it has something to do."""
    assert governance.charter is not None
    match kind:
        case "change-charter":
            revision = governance.charter.revision + (number % 7 != 0)
            return subjects.ChangeCharter(charter=charter(number % len(CHARTERS), revision))
        case "hear-appeal":
            held = {name: each.decision for name, each in governance.suspended.items()} | governance.expelled
            if held and about not in held:
                about = sorted(held)[number % len(held)]
            return subjects.HearAppeal(member=about, decision=held.get(about, "0" * 64))
        case "suspend":
            return subjects.Suspend(member=about)
        case "expel":
            return subjects.Expel(member=about)
        case "replace-root-key":
            return subjects.ReplaceRootKey(member=about, root_key=root_key)
        case "admit":
            return subjects.Admit(member=GUESTS[number % 2] if number % 5 else about)
        case "ratify-plan":
            return subjects.RatifyPlan(run=f"run{number % 3}", plan=f"{number % 4}" * 64)
        case "accept-release":
            return subjects.AcceptRelease(release=f"r{number % 3}", state="e" * 64)
        case "revoke-release":
            return subjects.RevokeRelease(release=f"r{number % 3}")
        case "appoint-operator":
            return subjects.AppointOperator(member=about)
        case _:
            return subjects.OpenPhase(phase=f"phase{number % 4}")
