"""A second count of votes, as docs/formats/charter.md has it: JSON in, nothing of `tapestry` imported.

Shares are found the other way round than in `tapestry`: how many of the heaviest are at the cap is tried out.
"""

from __future__ import annotations

from fractions import Fraction as F
from typing import Any

PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
ABOUT = ("suspend", "expel", "appoint-operator", "replace-root-key", "hear-appeal", "admit")


def met(threshold: str, part: F) -> bool:
    *words, number = threshold.split(" ")
    return part > F(number) if words == ["more", "than"] else part >= F(number)


def shares(voting: dict[str, Any], electors: list[dict[str, Any]]) -> dict[str, F]:
    n = len(electors)
    if n == 0:
        return {}
    total = sum(each["contribution"] for each in electors)
    raw = {}
    for each in electors:
        match voting["weights"]:
            case "equal":
                raw[each["member"]] = F(1)
            case "seats":
                raw[each["member"]] = F(each["seats"])
            case _:
                part = F(voting["equal_part"])
                own = F(each["contribution"], total) if total else F(1, n)
                raw[each["member"]] = part / n + (1 - part) * own
    cap = max(F(voting["cap"]), F(1, n))
    order = sorted(raw, key=lambda name: -raw[name])
    for at_cap in range(n + 1):
        rest = sum(raw[name] for name in order[at_cap:])
        found = dict.fromkeys(order[:at_cap], cap)
        found |= {name: raw[name] * (1 - at_cap * cap) / rest for name in order[at_cap:]}
        if all(each <= cap for each in found.values()) and sum(found.values()) == 1:
            return found
    raise AssertionError("no shares under the cap")


def seconds(period: str) -> int:
    count, unit = period.split(" ")
    return int(count) * PERIODS[unit.removesuffix("s")]


def count(
    charter: dict[str, Any],
    kind: str,
    about: str | None,
    members: list[dict[str, Any]],
    ballots: list[tuple[int, str, str, int]],
) -> tuple[F, F, F, str]:
    """`ballots`: position, member, choice, milliseconds since the opening. Yes, no, abstain, verdict."""
    rule = charter["decisions"][kind]
    out = about if kind in ABOUT and rule["interested"] == "out" else None
    electors = [m for m in members if m["seats"] and not m["suspended"] and m["member"] != out]
    weight = shares(charter["voting"], electors)
    last = {}
    for _, member, choice, at_ms in sorted(ballots):
        if member in weight and 0 <= at_ms <= 1000 * seconds(rule["voting"]):
            last[member] = choice
    yes, no, abstain = (
        sum((weight[m] for m, c in last.items() if c == word), F(0)) for word in ("yes", "no", "abstain")
    )
    part = yes + no + abstain if rule["quorum_of"] == "votes" else F(len(last), max(len(electors), 1))
    agreed = yes if rule["of"] == "all" else yes / ((yes + no) or 1)
    if not last or not met(rule["quorum"], part):
        verdict = "no-quorum"
    elif list(last.values()).count("yes") < rule["yes_members"]:
        verdict = "too-few-yes"
    else:
        verdict = "passed" if met(rule["approval"], agreed) else "not-approved"
    return yes, no, abstain, verdict
