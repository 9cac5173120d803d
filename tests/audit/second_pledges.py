"""Pledges and phases, for the second verifier: from docs/formats/pledges.md, no code of Tapestry's."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

Json = dict[str, Any]
PLEDGED = {"pledge-made": "pledge", "pledge-confirmed": "pledge-confirmation"}
BYTES = ["B", "kB", "MB", "GB", "TB", "PB"]
RATES = ["kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]
UNITS = {unit: ("bytes", 1000**n) for n, unit in enumerate(BYTES)}
UNITS |= {unit: ("rate", 1000**n) for n, unit in enumerate(RATES)}
UNITS |= {"accelerator-hours": ("time", 1), "% of full-time": ("people", 1), "full-time": ("people", 100)}
COUNTED = {"compute": "time", "storage": "bytes", "bandwidth": "rate", "people": "people"}


def amount(text: str) -> tuple[str, int]:  # of what, and how many smallest units; refused in another form
    found = re.fullmatch("(0|[1-9][0-9]*) (.+)", text)
    if found is None:
        raise ValueError("this is no amount")
    number, unit = int(found[1]), found[2]
    of, size = UNITS.get(unit, (unit, 1))
    known = unit in UNITS or re.fullmatch("[A-Z]{3}", unit)
    larger = [each for what, each in UNITS.values() if what == of and each > size]
    one_form = all(number * size % each for each in larger) if number else size == 1
    if not known or not one_form or number * size > 10**18:
        raise ValueError("an amount is in no unit, or not in its one form")
    return of, number * size


def counted(resource: str, of: str) -> bool:  # whether a resource is an amount of that
    if resource == "funds":
        return re.fullmatch("[A-Z]{3}", of) is not None
    return of == ("bytes" if resource.startswith("data.") else COUNTED[resource])


WORDS = 256  # of one member, about pledges in force


class Pledges:
    """`votes` has members, charter, suspensions and phases that are open."""

    def __init__(self, votes: Any) -> None:
        self.votes, self.need = votes, votes.need
        self.held = dict[tuple[Any, ...], Json]()

    def phases(self) -> Json:
        return (self.votes.charter or {}).get("phases") or {}

    def entry(self, kind: str, said: Json, digest: str, body: Json, at: str) -> None:
        away = self.votes.is_suspended(said["member"], at)
        self.need(not away, "a suspended member pledges or confirms")
        if kind == "pledge-made":
            self.need(body["pledge"] == digest, "a pledge by another name")
            return self.pledged(said, digest)
        self.need(body["pledge"] == said["pledge"], "a word about another pledge")
        held = next((each for each in self.held.values() if each["digest"] == said["pledge"]), None)
        self.need(held is not None, "there is no such pledge in force")
        assert held is not None
        own = held["member"] == said["member"]
        self.need(not own and self.confirms(said["member"]), "this member may not confirm that")
        known = said["member"] in held["words"]
        many = sum(said["member"] in each["words"] for each in self.held.values()) >= WORDS
        self.need(known or not many, "a word about too many pledges")
        words = held["words"].setdefault(said["member"], {"number": 0})
        self.need(said["number"] == words["number"] + 1, "a word is not the member's next one")
        held["words"][said["member"]] = said
        return None

    def pledged(self, said: Json, digest: str) -> None:
        phase, resource, need = self.phases().get(said["phase"]), said["resource"], self.need
        need(said["charter"] == self.votes.tools.sha256(self.votes.charter), "under another charter")
        need(phase is not None and resource in phase["needs"], "no phase needs that")
        of, base = amount(said["amount"])
        same = of == amount(phase["needs"][resource])[0]
        need(counted(resource, of) and same, "a pledge in another unit than the need")
        need((said["dataset"] is not None) == resource.startswith("data."), "a dataset is for data")
        key = (said["phase"], said["member"], resource, said["dataset"])
        before = self.held.get(key)
        few = sum(each["member"] == said["member"] for each in self.held.values()) < 64
        need(before is not None or few, "too many pledges")
        need(said["number"] == (before or {"number": 0})["number"] + 1, "not the member's next pledge")
        self.held[key] = {**said, "digest": digest, "of": of, "base": base, "words": {}}

    def confirms(self, member: str) -> bool:  # whether it has a role that confirms
        roles = self.votes.seat(self.votes.charter, member)["roles"]
        return bool({*roles} & {"steward", "auditor"})

    def go(self, name: str, at: str) -> bool:  # whether the thresholds of a phase are met
        phase = self.phases()[name]
        here = [m for m in self.votes.members() if not self.votes.is_suspended(m, at)]
        words = {m for m in here if self.confirms(m)}
        sums, bring = dict.fromkeys(phase["needs"], 0), set()
        for held in self.held.values():
            need = phase["needs"].get(held["resource"])
            if held["phase"] != name or need is None or amount(need)[0] != held["of"]:
                continue
            sure = any(word["stands"] and m in words for m, word in held["words"].items())
            if held["member"] in here and (sure or phase["counts"] == "pledged"):
                sums[held["resource"]] += held["base"]
                bring |= {held["member"]} if held["base"] else set()
        met = all(sums[resource] >= amount(text)[1] for resource, text in phase["needs"].items())
        return met and len(bring) >= phase["members"]

    def may_open(self, name: str, at: str, *, opening: bool, yes: Fraction) -> bool:
        if name in self.votes.phases:
            return False
        if "phases" not in self.votes.charter:
            return True
        if name not in self.phases():
            return False
        override = self.phases()[name]["override"]
        how, _, share = (override or "more than 1").rpartition(" ")
        over = yes > Fraction(share) if how == "more than" else yes >= Fraction(share)
        return opening or over or self.go(name, at)

    def may_start(self, run: str) -> None:
        shut = any(
            run in each["runs"] for name, each in self.phases().items() if name not in self.votes.phases
        )
        self.need(not shut, f"run {run} belongs to a phase that is not open")

    def still_open(self, charter: Json) -> set[str]:  # under a changed charter
        if "phases" not in charter and "phases" not in self.votes.charter:
            return set(self.votes.phases)
        return self.votes.phases & self.phases().keys() & charter.get("phases", {}).keys()

    def still_held(self, charter: Json) -> None:  # under a changed charter
        for key, held in [*self.held.items()]:
            need = charter.get("phases", {}).get(held["phase"], {"needs": {}})["needs"].get(held["resource"])
            if need is None or not held["base"] or amount(need)[0] != held["of"]:
                del self.held[key]
