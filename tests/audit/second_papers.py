"""Certificates of entitlement, for the second verifier: from docs/formats/entitlements.md, sharing no code
with Tapestry. `tools` are the functions of tests/audit/second.py."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

Json = dict[str, Any]
FIELDS = {"format", "version", "certificate", "signatures", "checkpoint", "entries"}
RIGHTS = ["use", "derive", "redistribute", "own-derivative"]


def leads(tools: Any, leaf: str, index: int, size: int, proof: list[str]) -> str:  # RFC 9162, 2.1.3.2
    last, found = size - 1, leaf
    for each in proof:
        tools.need(last > 0, "a proof is too long")
        if index % 2 or index == last:
            found = tools.sha256(b"\1", each, found)
            while index and not index % 2:
                index, last = index >> 1, last >> 1
        else:
            found = tools.sha256(b"\1", found, each)
        index, last = index >> 1, last >> 1
    tools.need(last == 0, "a proof is too short")
    return str(found)


def check(data: bytes, core_key: str, tools: Any) -> str:  # raises ValueError, or that of a bad signature
    need, sha256 = tools.need, tools.sha256
    need(data.endswith(b"\n"), "the file is cut off")
    paper = tools.parse(data[:-1], 16 << 20)
    need(paper.keys() == FIELDS and paper["version"] == 1, "this is no paper of version 1")
    said = paper["certificate"]
    entries = [tools.parse(each["entry"].encode(), 32 << 20) for each in paper["entries"]]
    places = [each["sequence"] for each in entries]
    need(places == sorted({*places}) and len(places) <= 256, "entries are not in order")
    founded = entries[0]
    need((founded["sequence"], founded["type"]) == (1, "founded"), "it does not begin with a founding")
    need(sha256(founded) == said["consortium"], "it is of another consortium")
    later = [(e["sequence"], e["body"]["core_key"]) for e in entries if e["type"] == "core-succeeded"]
    spoke = [(0, founded["body"]["core_key"]), *later]
    head = tools.signed_head(paper["checkpoint"], said["consortium"], spoke)
    origin, size, root = head.split("\n")[:3]
    need(origin == f"tapestry/{said['consortium']}", "the head is of another ledger")
    need([key for start, key in spoke if start <= int(size)][-1] == core_key, "another core's key signed")
    for entry, each in zip(entries, paper["entries"], strict=True):
        need(entry["sequence"] <= int(size), "an entry is behind the head")
        way = leads(tools, sha256(b"\0", entry), entry["sequence"] - 1, int(size), each["proof"])
        need(bytes.fromhex(way) == tools.unbase64(root), "an entry is not in the tree")
    charter, decided = facts(said, entries, tools)
    return signatures(paper, said, charter, decided, tools)


def facts(said: Json, entries: list[Json], tools: Any) -> tuple[Json, Json]:
    need, sha256 = tools.need, tools.sha256
    shared = [each for each in entries if each["scope"] == "consortium"]
    proposed = {}
    for each in (e for e in shared if e["type"] == "proposal-opened"):
        message = tools.parse(
            tools.unbase64(tools.parse(each["body"]["envelope"].encode(), 2 << 20)["payload"]), 1 << 20
        )
        need(sha256(message) == each["body"]["proposal"], "a proposal has another name")
        proposed[each["body"]["proposal"]] = each["sequence"], message
    passed = {
        e["body"]["proposal"]: e
        for e in shared
        if e["type"] == "proposal-decided" and e["body"]["in_force"] and e["body"]["verdict"] == "passed"
    }
    need(said["decision"] in proposed.keys() & passed.keys(), "no decision accepts this release")
    (opened, proposal), decided = proposed[said["decision"]], passed[said["decision"]]
    base, subject = said["base"], proposal["subject"]
    wanted = {"kind": "accept-release", "release": said["release"], "state": base["state"]}
    need(subject == wanted, "another release, or another state")
    need((decided["sequence"], decided["at"]) == (said["decided"], said["at"]), "decided elsewhere")
    tally = tools.parse(decided["body"]["tally"].encode(), 1 << 20)
    texts = [e["body"]["charter"] for e in shared if e["type"] == "charter-adopted"]
    charters = [tools.parse(text.encode(), 1 << 20) for text in texts]
    charters += [m["subject"]["charter"] for _, m in proposed.values() if "charter" in m["subject"]]
    named = [each for each in charters if sha256(each) == said["charter"]]
    same = said["charter"] == tally["charter"] == proposal["charter"]
    need(same and bool(named) and named[0]["revision"] == said["revision"], "another charter")
    runs = [e for e in entries if e["scope"] == base["run"]]
    made = [e["body"] for e in runs if e["type"] == "round-committed" and e["sequence"] < said["decided"]]
    merge = {k: base[k] for k in ("round", "merges", "state", "base")}
    plans = [e["body"]["plan"] for e in runs if e["type"] == "run-planned"]
    need(any(merge.items() <= each.items() for each in made), "no merge made this base")
    need(any((p["model"], p["layout"]) == (base["model"], base["layout"]) for p in plans), "another model")
    (admitted,) = [
        e for e in shared if e["type"] == "member-admitted" and e["body"]["member"] == said["member"]
    ]
    replaced = {"kind": "replace-root-key", "member": said["member"], "root_key": said["root_key"]}
    put = [
        passed[name]["sequence"]
        for name in proposed.keys() & passed
        if proposed[name][1]["subject"] == replaced
    ]
    by_vote = any(place < said["decided"] for place in put)
    need(admitted["body"]["root_key"] == said["root_key"] or by_vote, "another root key")
    here = {each["member"] for each in (*tally["electors"], *tally["left_out"])}
    rules, given = named[0]["entitlements"], said["given"]
    need(admitted["sequence"] <= opened, "it joined later")
    need(said["member"] in here or rules["leavers_keep"], "it had left")
    need(said["asked"] == {k: rules[k] for k in ("rounds", "weight", "needs")}, "another rule")
    part = Fraction(given["weight"], (given["of_merges"] << 24) or 1)
    met = [given["rounds"] >= rules["rounds"], part >= Fraction(rules["weight"])]
    need(all(met) if rules["needs"] == "both" else any(met), "the rule is not met")
    need(said["rights"] == RIGHTS, "other rights")
    return named[0], decided["body"]


def signatures(paper: Json, said: Json, charter: Json, decided: Json, tools: Any) -> str:
    kind, payload = b"application/vnd.tapestry.entitlement+json", tools.canonical(said).encode()
    data = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    named = {each["member"]: each["key_id"] for each in decided.get("signers", [])}
    holders, signed = charter["release"]["holders"], [each["member"] for each in paper["signatures"]]
    tools.need(signed == sorted({*signed}) and {*signed} <= {*holders}, "signed twice, or by no holder")
    for each in paper["signatures"]:
        own = tools.sha256(each["public_key"]) == named.get(each["member"])
        tools.need(own, "signed with another key")
        key = tools.Ed25519PublicKey.from_public_bytes(bytes.fromhex(each["public_key"]))
        key.verify(tools.unbase64(each["sig"]), data)
    tools.need(len(signed) >= charter["release"]["signatures"], "too few have signed")
    return str(said["member"])
