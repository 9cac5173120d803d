"""A second verifier of ledgers, written from docs/formats and sharing no code with Tapestry.

`python tests/audit/second.py FILE` prints OK and what it saw, or why the ledger does not hold: then it exits
with 1. Standard library, and `cryptography` for Ed25519. Schemas are read from docs/formats/schemas.md."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

sys.path.append(str(Path(__file__).parents[2]))
from tests.audit.second_pledges import PLEDGED
from tests.audit.second_votes import Votes
from tests.audit.second_weights import UNIT, weights

Json = dict[str, Any]
LINE, ENVELOPE, MESSAGE, NOTE = 96 << 20, 2 << 20, 1 << 20, 256 << 10  # the last 4: bytes
Bad = ValueError  # why a ledger does not hold


def need(holds: bool, why: str) -> None:
    if not holds:
        raise Bad(why)


def canonical(value: Any) -> str:  # numbers as ECMAScript writes them: plain from 1e-6 on, below 1e21
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float) and (value == 0 or 1e-6 <= abs(value) < 1e21):
        return format(Decimal(repr(value + 0.0).removesuffix(".0")), "f")
    if isinstance(value, float):
        return re.sub("e([+-])0*", r"e\1", repr(value))
    need(type(value) is not int or abs(value) < 1 << 53, "an integer is above 2^53 - 1")
    return json.dumps(value, ensure_ascii=False)


def parse(data: bytes, most: int) -> Any:  # JSON in its one form; no key is there twice
    value = json.loads(data.decode()) if len(data) <= most else None
    need(canonical(value).encode() == data, "JSON is too long, or not canonical")
    return value


def unbase64(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    need(base64.b64encode(data).decode() == text, "base64 is not in its one form")
    return data


def sha256(*parts: bytes | str | Json) -> str:  # of bytes, of hexadecimal digits, of an object's JSON
    made = (canonical(part).encode() if isinstance(part, dict) else part for part in parts)
    data = (bytes.fromhex(part) if isinstance(part, str) else part for part in made)
    return hashlib.sha256(b"".join(data)).hexdigest()


def read_schemas(page: str) -> dict[str, Any]:  # a pattern, or types by field, for each name
    found: dict[str, Any] = {}
    for line in page.split("```schemas\n")[1].split("```")[0].replace("\n  ", " ").splitlines():
        name, mark, rest = re.split("(:| = )", line, maxsplit=1)
        message = {"format": f"'{name}", "version": "1..1"} if name.startswith("tapestry.") else {}
        fields = (field.split("=", 1) for field in rest.split())
        found[name] = dict(fields) | message if mark == ":" else re.compile(rest[1:-1], re.DOTALL)
    return found


SCHEMAS = read_schemas((Path(__file__).parents[2] / "docs/formats/schemas.md").read_text("utf-8"))
BASICS = {"null": [type(None)], "bool": [bool], "object": [dict], "integer": [int], "number": [int, float]}


def fits(kind: str, value: Any) -> bool:  # whether a value is of a type, written as the page says
    if "|" in kind:
        return any(fits(each, value) for each in kind.split("|"))
    if kind in BASICS or kind[0] == "'":
        return type(value) in BASICS[kind] if kind in BASICS else bool(value == kind[1:])
    schema = SCHEMAS.get(kind)
    if isinstance(schema, re.Pattern):
        return isinstance(value, str) and schema.fullmatch(value) is not None
    if schema is not None:
        known = {name.rstrip("?"): of for name, of in schema.items()}
        whole = isinstance(value, dict) and schema.keys() & known.keys() <= value.keys() <= known.keys()
        return whole and all(fits(known[name], value[name]) for name in value)
    if "*" in kind:
        of, _, most = kind.partition("*")
        key, _, of = of.strip("{}").rpartition(":")
        few = isinstance(value, dict if key else list) and len(value) <= int(most or 1 << 40)
        return few and all(fits(key, k) and fits(of, value[k]) if key else fits(of, k) for k in value)
    ends = [end.strip("[()]").partition("^") for end in kind.split("..")]
    low, high = (int(base) ** int(power or 1) for base, _, power in ends)
    inside = type(value) in BASICS["number" if kind[0] in "[(" else "integer"] and low <= value <= high
    return inside and not ((kind[0] == "(" and value == low) or (kind[-1] == ")" and value == high))


def milliseconds(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 1000)


def check_plan(plan: Json) -> None:  # what fields of a plan must be to each other
    rounds, inner, merge, codec = (plan[name] for name in ("rounds", "inner", "merge", "codec"))
    fragments, overlap, mixing = (plan["streaming"][k] for k in ("fragments", "overlap_steps", "mixing"))
    outer, rate, momentum, cap = map(merge.get, ("outer", "outer_rate", "outer_momentum", "influence_cap"))
    encodings, feedback = [codec[k] for k in ("matrices", "embeddings", "norms")], codec["error_feedback"]
    stages = [stage["after_merges"] for stage in inner["schedule"]]
    full = min(each["steps"] for each in [inner, *inner["schedule"]])
    momentum_is_meant = momentum == 0 or merge["momentum_on_feedback"]
    needed, named, of = *(plan["witness"][k] for k in ("quorum", "members")), plan.get("origin", NOWHERE)
    conditions = {
        "quorum": rounds["min_nodes"] >= rounds["quorum"],
        "cap and quorum": int(Fraction(canonical(cap)) * UNIT) * rounds["quorum"] >= UNIT,
        "schedule": stages == sorted({*stages}),
        "top-k": all(e["kind"] != "topk" or e["keep"] <= e["side"] ** 2 for e in encodings),
        "outer": momentum == 0 if outer == "sgd" else outer != "fedavg" or (rate, momentum) == (1, 0),
        "refresh": outer == "delayed" or merge["refresh"] == 1,
        "cap and average": cap == 1 or {merge["average"], merge["embedding_rows"]} == {"all"},
        "witness": needed <= min(rounds["min_nodes"], len(named) or needed) and len({*named}) == len(named),
        "witness and sync": not needed or plan["sync"] == "replay" or bool(named),
        "mixing": not mixing or ((fragments > 1 or overlap > 0) and feedback is None),
        "staleness": not rounds["staleness"] or fragments == 1,
        "overlap": overlap < max(1, round(full * min(inner["paces"].values(), default=1))),
        "origin": of["run"] != plan["run"] and of["merges"] <= min(of["round"], rounds["total"] - 1),
        "feedback": feedback is None or (momentum_is_meant and any(e["kind"] != "fp32" for e in encodings)),
    }
    for what, holds in conditions.items():
        need(holds, f"a plan cannot be: {what}")


def opened(data: bytes, kind: str, key_of: Callable[[str, Json], str | None]) -> tuple[Json, str]:  # DSSE
    envelope = parse(data, ENVELOPE)
    need(fits("envelope", envelope) and len(envelope["signatures"]) == 1, "no envelope of one signature")
    type_, payload = envelope["payloadType"], unbase64(envelope["payload"])
    said, (signature,) = parse(payload, MESSAGE), envelope["signatures"]
    need(type_ == f"application/vnd.tapestry.{kind}+json" and fits(f"tapestry.{kind}", said), "another kind")
    key = key_of(signature["keyid"], said) or "00"
    need(sha256(key) == signature["keyid"], "an envelope is signed by an unknown key")
    pae = b"DSSEv1 %d %s %d %s" % (len(type_), type_.encode(), len(payload), payload)
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(unbase64(signature["sig"]), pae)
    return said, signature["keyid"]


def signed_head(note: str, consortium: str, keys: list[tuple[int, str]]) -> str:  # by its key of that size
    text, _, under = note.partition("\n\n")
    key = [key for start, key in keys if start <= int([*text.split("\n"), "none"][1])][-1]
    need(len(note.encode()) <= NOTE and not re.search(r"[\x00-\x09\x0b-\x1f]", note), "this is no note")
    lines = [re.fullmatch(r"— ([^\s+]{1,255}) ([A-Za-z0-9+/]+={0,2})\n", s) for s in under.splitlines(True)]
    need(all(lines) and len(lines) <= 1024, "what stands under a note is no signature")
    found = {(line[1], (data := unbase64(line[2]))[:4].hex()): data[4:] for line in lines}
    need(all(found.values()) and len(found) == len(lines), "a signature is empty, or there twice")
    own = (f"tapestry/{consortium}", sha256(f"tapestry/{consortium}\n\1".encode(), key)[:8])
    need(own in found, "the core has not signed")
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(found[own], f"{text}\n".encode())
    return f"{text}\n"


class Run:
    def __init__(self, plan: Json) -> None:
        of, self.start, self.due = plan.get("origin", NOWHERE), plan["initial_state"], None
        self.plan, self.newest, self.status, self.last, self.at = plan, plan, "planned", of["round"], ""
        self.head, self.committed = {k: of[k] for k in ("merges", "round")} | {"state": self.start}, Json()
        self.repeats = str([of["run"], of["round"] + 1, self.start, of["plan"], of["merges"]])
        self.enrolled, self.attested = dict[str, str](), dict[str, str]()
        self.barred, self.rounds = set[str](), list[Json]()

    @property
    def open(self) -> Json | None:
        return next((r for r in self.rounds if r["phase"] not in ("committed", "abandoned")), None)

    def find(self, body: Json) -> Json | None:
        return next((r for r in self.rounds if all(r[k] == body.get(k) for k in ("round", "fragment"))), None)

    def follows(self, now: int) -> tuple[str, Json] | None:  # by the rules and the time alone
        at, rules, merges = self.open, self.newest["rounds"], self.head["merges"]
        if at is not None:
            return self.ends(at, now) if at["phase"] != "merging" else None
        of, quorum = self.plan.get("origin", NOWHERE), self.plan["witness"]["quorum"]
        witnessed = merges == of["merges"] or len({*self.attested.values()}) >= quorum
        if self.status != "running" or not witnessed or merges >= rules["total"]:
            ends = self.status == "running" and witnessed
            return ("run-finished", {"state": self.head["state"]}) if ends else None
        opened = {"plan": sha256(self.newest), "state": self.head["state"], "nodes": sorted(self.enrolled)}
        opened |= {"round": self.last + 1, "fragment": merges % self.newest["streaming"]["fragments"]}
        opened |= {"opened_ms": now, "deadline_ms": now + round(rules["deadline_s"] * 1000)}
        enough = rules["quorum" if self.last > of["round"] else "min_nodes"]
        return ("round-opened", opened) if len(self.enrolled) >= enough else None

    def ends(self, at: Json, now: int) -> tuple[str, Json] | None:
        key, sent, rules = {k: at[k] for k in ("round", "fragment")}, at["sent"], self.plan["rounds"]
        overdue, sealed = now >= at["deadline_ms"], at["phase"] == "revealing"
        in_order = sorted(sent.values(), key=lambda s: (s["member"], s["node"]))
        by = {k: [s for s in in_order if s["status"] == k] for k in ("committed", "received", "accepted")}
        owing = sorted(by["committed"] if sealed else [], key=lambda s: s["node"])
        waits = any(s["node"] in self.enrolled for s in owing) or not (sealed or {*sent} >= {*at["nodes"]})
        if by["received"] or (waits and not overdue):
            return None
        if owing:
            named = {k: owing[0][k] for k in ("node", "contribution")}
            return "contribution-refused", {**key, **named, "reason": "not-revealed"}
        for accepted in (by["accepted"], by["committed"]):
            found = weights(self.plan, accepted) if len(accepted) >= rules["quorum"] else None
            if found is not None and accepted == by["committed"]:
                return "round-sealed", {**key, "deadline_ms": now + round(rules["reveal_s"] * 1000)}
            if found is not None:
                each = zip(accepted, found, strict=True)
                merged = [{k: s.get(k, w) for k in SCHEMAS["merged"]} for s, w in each]
                return "round-closed", {**key, "merged": merged}
        if sealed or (overdue and rules["below_quorum"] == "abandon"):
            return "round-abandoned", {**key, "reason": "below-quorum", "detail": ""}
        more = sorted(self.enrolled.keys() - set(at["nodes"]))
        return ("round-widened", {**key, "nodes": more}) if overdue and more else None

    def may_come(self, kind: str, body: Json, now: int) -> bool:
        node, at = body.get("node", ""), self.find(body)
        sent = at["sent"].get(node) if at is not None else None
        screened = sent and (sent["status"], sent["contribution"]) == ("received", body.get("contribution"))
        merging = at is not None and at["phase"] == "merging"
        may = {"run-started": self.status == "planned", "node-withdrawn": node in self.enrolled}
        may |= dict.fromkeys(("contribution-accepted", "contribution-refused"), bool(screened))
        if sent and at["phase"] == "revealing" and sent["status"] == "committed" and node in self.enrolled:
            may[kind] = body == {k: sent[k] for k in SCHEMAS[HANDED]} | {"received_ms": now}
        may |= {"round-committed": merging and body.get("merges") == self.head["merges"] + 1}
        may |= {"round-abandoned": merging}
        return self.may_revise(body["plan"]) if kind == "plan-revised" else may.get(kind, False)

    def may_revise(self, plan: Json) -> bool:
        check_plan(plan)
        new, old = plan["witness"], self.newest["witness"]
        kept = all(plan.get(k) == self.plan.get(k) for k in FIXED) and new["members"] == old["members"]
        kept = kept and plan["streaming"]["fragments"] == self.plan["streaming"]["fragments"]
        grown = plan["revision"] == self.newest["revision"] + 1 and new["quorum"] >= old["quorum"]
        return kept and grown and self.status != "finished" and plan["rounds"]["total"] >= self.head["merges"]

    def answer(self, kind: str, said: Json, digest: str) -> tuple[str, Json]:
        node, member, named = said["node"], said["member"], self.plan["witness"]["members"]
        if kind == "node-enrolled":
            need(self.status != "finished" and node not in {*self.enrolled, *self.barred}, "it may not enrol")
            need(said["plan"] in map(sha256, (self.plan, self.newest)), "it enrols under another plan")
        if kind == "base-attested":
            need(said.items() >= self.head.items() and node not in self.attested, "not of the newest base")
            need(self.enrolled.get(node) == member and member in (named or [member]), "it is no witness")
        return kind, {k: said[k] for k in SCHEMAS[kind] if k in said} | {NAMED[kind]: digest}

    def contribution(self, said: Json, digest: str, now: int) -> tuple[str, Json]:
        node, trained, staleness = said["node"], self.find(said), self.plan["rounds"]["staleness"]
        need(trained is not None, "a contribution is to a round that is not kept")
        prior = [s for r in self.rounds if (s := r["sent"].get(node)) and s["trained"] == said["round"]][-1:]
        need(all(s["contribution"] != digest for s in prior), "a contribution is recorded twice")
        late = trained["phase"] != "training" and staleness and self.last - trained["round"] <= staleness
        enters = (self.open if late else None) or trained
        need(enters is trained or enters["phase"] == "training", "a late contribution has to wait")
        named = {"round": said["round"], "fragment": said["fragment"], "node": node, "contribution": digest}
        if enters["phase"] != "training":
            need(node in trained["nodes"] and node not in trained["late"], "noted as late in vain")
            return "contribution-late", named
        prior += [enters["sent"][node]] if node in enters["sent"] else []
        need(all(s["status"] == "refused" for s in prior), "a node contributes twice")
        need(node in trained["nodes"] and node in enters["nodes"], f"node {node} is not expected")
        need((said["state"], said["plan"]) == (trained["state"], sha256(self.plan)), "another base, or plan")
        inner, merges = self.plan["inner"], trained["merges"]
        reached = [inner["steps"], *(s["steps"] for s in inner["schedule"] if s["after_merges"] <= merges)]
        steps = max(1, round(reached[-1] * inner["paces"].get(said["member"], 1)))
        each = inner["accumulation"] * inner["batch_sequences"] * inner["sequence_length"]
        need(said["steps"] <= steps and said["tokens"] <= said["steps"] * each, "it claims too much")
        named |= {"round": enters["round"], "lag": enters["round"] - trained["round"], "received_ms": now}
        kind = HANDED if "reveal_s" in self.plan["rounds"] else "contribution-received"
        others = [s["delta"] for n, s in enters["sent"].items() if n != node and s["status"] != "refused"]
        need(kind != HANDED or said["delta"] not in others, "it commits what another has committed")
        return kind, named | {k: said[k] for k in ("member", "delta", "tokens", "steps")}

    def apply(self, kind: str, body: Json) -> None:
        at, node, what = self.find(body), body.get("node", ""), kind.rpartition("-")[2]
        self.status = {"run-started": "running", "run-finished": "finished"}.get(kind, self.status)
        if kind == "plan-revised":
            self.newest = body["plan"]
        elif kind in ("node-enrolled", "base-attested"):
            (self.enrolled if kind == "node-enrolled" else self.attested)[node] = body["member"]
        elif kind == "node-withdrawn":
            del self.enrolled[node]
            self.barred |= {node} if body["reason"] == "operator" else set()
            for each in (r for r in self.rounds if r["phase"] == "training"):
                each["nodes"] = [n for n in each["nodes"] if n != node]
        elif kind == "round-opened":
            self.plan, self.last = self.newest, body["round"]
            fresh = {"phase": "training", "merges": self.head["merges"], "sent": {}, "late": {}}
            self.rounds.append(body | fresh)
        elif at is not None:
            if kind in (HANDED, "contribution-received", "contribution-revealed"):
                status = "committed" if kind == HANDED else "received"
                at["sent"][node] = {**body, "status": status, "trained": body["round"] - body["lag"]}
            elif what == "sealed":
                at |= {"phase": "revealing", "deadline_ms": body["deadline_ms"]}
            elif what in ("accepted", "refused"):
                at["sent"][node]["status"] = what
            elif what in ("late", "widened"):
                at["late"] |= {node: body["contribution"]} if what == "late" else {}
                at["nodes"] = sorted({*at["nodes"], *body.get("nodes", ())})
            else:
                at["phase"] = {"closed": "merging"}.get(what, what)
                at["merged"] = body.get("merged", at.get("merged"))
            if kind == "round-committed":
                self.head, self.attested = {k: body[k] for k in self.head}, {}
            ended = [r for r in self.rounds if r["phase"] in ("committed", "abandoned")]
            for old in ended[: max(0, len(ended) - 4 - self.plan["rounds"]["staleness"])]:
                self.rounds.remove(old)


BY_TIME = {"round-opened", "round-widened", "round-sealed", "round-closed", "run-finished"}
BY_TIME |= {"round-abandoned: below-quorum", "contribution-refused: not-revealed"}
HANDED, NOWHERE = "contribution-committed", {"run": "", "round": 0, "merges": 0, "plan": ""}
FIXED = ("run", "task", "model", "layout", "initial_state", "parameters", "stage", "origin")
NAMED = dict.fromkeys(("contribution-received", HANDED, "contribution-late"), "contribution")
NAMED |= {"node-enrolled": "enrolment", "base-attested": "attestation", "score-published": "score"}
VOTED = (
    "charter-adopted",
    "proposal-opened",
    "ballot-cast",
    "proposal-decided",
    "account-disputed",
    *PLEDGED,
)
ROLES = {"attestation": "witness", "succession": "witness"} | dict.fromkeys(
    ("charter-signature", "proposal", "ballot", "dispute", *PLEDGED.values()), "vote"
)
SEALED = {"member-admitted": "join", "key-certified": "key", "key-revoked": "key-revocation"}


class Ledger:
    def __init__(self) -> None:
        self.consortium, self.spoke, self.heads = "", [(0, "")], set[str]()
        self.here, self.used = {"size": 0, "root": sha256()}, set[str]()
        self.roots, self.keys, self.runs = dict[str, str](), dict[str, Json](), dict[str, Run]()
        self.blobs, self.peaks, self.was = dict[str, bytes](), list[tuple[int, str]](), set[Any]()
        self.votes = Votes(self, sys.modules[__name__])

    def head(self, size: int, root: str) -> str:
        return f"tapestry/{self.consortium}\n{size}\n{base64.b64encode(bytes.fromhex(root)).decode()}\n"

    def entry(self, entry: Json) -> None:
        kind, body, scope, now = entry["type"], entry["body"], entry["scope"], milliseconds(entry["at"])
        shared, size = kind in ("founded", "core-succeeded", *SEALED, *VOTED), self.here["size"]
        fitting = shared == (scope == "consortium") and kind in SCHEMAS and fits(kind, body)
        need(fitting and (kind == "founded") == (size == 0), f"entry {size + 1} is no {kind}")
        need(entry["sequence"] == size + 1 and now >= 0, f"after entry {size} comes another")
        need(all(r.due is None or name == scope for name, r in self.runs.items()), "a run has more to do")
        self.votes.in_time(kind, entry["at"])
        if kind == "founded":
            self.consortium, self.spoke = sha256(entry), [(0, body["core_key"])]
            self.heads = {self.head(**self.here)}
        elif kind == "core-succeeded":
            self.succeeded(body, now)
        elif kind in VOTED:
            self.votes.entry(entry, now)
        elif shared:
            self.of_consortium(kind, body, now)
        else:
            self.of_run(entry, now)
        need(not self.blobs, "an envelope stands before an entry that does not name it")
        level, node = 0, sha256(b"\0", entry)
        while self.peaks and self.peaks[-1][0] == level:
            level, node = level + 1, sha256(b"\1", self.peaks.pop()[1], node)
        self.peaks.append((level, node))
        for _, peak in self.peaks[-2::-1]:
            node = sha256(b"\1", peak, node)
        self.here = {"size": size + 1, "root": node}
        self.heads.add(self.head(**self.here))
        if kind == "round-committed":
            self.runs[scope].committed = self.here
            self.votes.merged(self.runs[scope].find(body) or {})

    def succeeded(self, body: Json, now: int) -> None:  # most members have signed, here
        about = {"consortium": self.consortium, "core_key": body["core_key"], **self.here}
        said = [self.valid(text.encode(), "succession", now)[0] for text in body["envelopes"]]
        need(all(each.items() >= about.items() for each in said), "a succession is of another key or ledger")
        most = 2 * len({each["member"] for each in said}) > len(self.votes.members())
        need(most and body["core_key"] not in self.used, "too few members have signed, or the key was used")
        self.spoke.append((self.here["size"] + 1, body["core_key"]))

    def of_consortium(self, kind: str, body: Json, now: int) -> None:
        sealed, roots = body["envelope"].encode(), self.roots
        said, _ = opened(sealed, SEALED[kind], lambda _, m: m.get("root_key") or roots.get(m["member"]))
        key = said.get("root_key") or said.get("public_key")
        need(said["member"] == body["member"] and key not in self.used, "another member's, or a used key")
        self.used |= {key} - {None}
        if kind == "member-admitted":
            asked = (said["root_key"], said["consortium"]) == (body["root_key"], self.consortium)
            self.votes.may_join(body["member"])
            need(asked and body["member"] not in self.roots, "a member asked for other things, or is in")
            self.roots[body["member"]] = body["root_key"]
            return
        named = body["key_id"]
        need(said["member"] not in self.votes.expelled, "an expelled member's root key")
        need(named == (said.get("key_id") or sha256(str(key))), "an envelope is of another key")
        if kind == "key-revoked":
            held = self.keys.get(named, {"member": None, "revoked": True})
            need(held["member"] == said["member"] and not held["revoked"], "there is no such key to revoke")
            held["revoked"] = True
            return
        start, end, node = milliseconds(said["not_before"]), milliseconds(said["expires"]), said["node"]
        need(start < end > now and (node or said["role"] != "node"), "a certificate has no time, or no node")
        others = {key["member"] for key in self.keys.values() if node is not None and key["node"] == node}
        need(others <= {said["member"]}, "a node is another member's")
        self.keys[named] = {**said, "start": start, "end": end, "revoked": False}

    def valid(self, data: bytes, kind: str, now: int) -> tuple[Json, str]:  # the message, and the key
        said, name = opened(data, kind, lambda n, _: self.keys.get(n, {}).get("public_key"))
        key, role = self.keys[name], ROLES.get(kind, "node")
        own = key["role"] == role and all(key[k] in (None, said.get(k, key[k])) for k in ("member", "node"))
        need(own, "a key is another's, or of another role")
        need(not key["revoked"] and key["start"] <= now < key["end"], "a key is not valid")
        return said, key["public_key"]

    def of_run(self, entry: Json, now: int) -> None:
        kind, body, run = entry["type"], entry["body"], self.runs.get(entry["scope"])
        if run is None and kind == "run-planned" and body["plan"]["run"] == entry["scope"]:
            check_plan(body["plan"])
            run = self.runs[entry["scope"]] = Run(body["plan"])
            need("origin" not in body["plan"] or run.repeats in self.was, "a run repeats what is not there")
            return
        need(run is not None, "a run was not planned, or by another name")
        if run.due is None:
            run.at = entry["at"]
            if BY_TIME & {kind, f"{kind}: {body.get('reason')}"}:
                run.due = run.follows(now)
            elif kind in NAMED:
                run.due = self.envelope(run, entry, now)
            else:
                self.votes.permit(run, kind, body, {}, entry["at"])
                run.due = (kind, body) if run.may_come(kind, body, now) else None
        need(run.due is not None, f"{kind} does not fit here")
        same = canonical(list(run.due)) == canonical([kind, body]) and entry["at"] == run.at
        need(same, f"by the rules comes {run.due[0]}, there is another {kind}")
        run.apply(kind, body)
        self.was |= {str([entry["scope"], *map(body.get, ("round", "state", "plan")), run.head["merges"]])}
        run.due = run.follows(now)

    def envelope(self, run: Run, entry: Json, now: int) -> tuple[str, Json]:
        kind, digest = NAMED[entry["type"]], entry["body"][NAMED[entry["type"]]]
        said, key = self.valid(self.blobs.pop(digest, b""), kind, now)
        need((said["consortium"], said["run"]) == (self.consortium, entry["scope"]), "it is for another run")
        self.votes.permit(run, kind, {}, said, entry["at"])
        if (note := said.get("checkpoint")) is not None:
            need(signed_head(note, self.consortium, self.spoke) in self.heads, "the core signed another tree")
        if kind == "attestation":
            need(said.items() >= run.committed.items() > set(), "it attests another ledger")
            name, data = f"{said['member']}/{said['node']}", unbase64(said["cosignature"])
            time, head = int.from_bytes(data[4:12], "big"), self.head(said["size"], said["root"])
            need(data[:4].hex() == sha256(f"{name}\n\4".encode(), key)[:8] and time < 1 << 63, "another key")
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
            public.verify(data[12:], f"cosignature/v1\ntime {time}\n{head}".encode())
        if kind == "contribution":
            return run.contribution(said, digest, now)
        return run.answer(entry["type"], said, digest)


def verify(file: Iterable[bytes]) -> str:
    ledger, ended = Ledger(), False
    for place, data in enumerate(file, start=1):
        try:
            need(data.endswith(b"\n") and not ended, "the file is cut off, or goes on after its checkpoint")
            line = parse(data[:-1], LINE)
            if place == 1:
                need(fits("tapestry.ledger", line), "this is no ledger of version 1")
            elif fits("line-entry", line):
                ledger.entry(line["entry"])
            elif fits("line-blob", line):
                ledger.blobs |= {sha256(blob := unbase64(line["blob"])): blob}
            else:
                need(fits("line-checkpoint", line), "a line is none of the four")
                need(all(run.due is None for run in ledger.runs.values()), "a run has more to do")
                head = signed_head(line["checkpoint"], ledger.consortium, ledger.spoke)
                ended = head == ledger.head(**ledger.here) and not ledger.blobs
                need(ended, "the core has signed another tree")
        except (ValueError, RecursionError, InvalidSignature) as e:
            raise Bad(f"line {place}: {str(e) or 'a signature does not verify'}") from e
    need(ended, "the file is cut off: it has no checkpoint")
    return f"{ledger.here['size']} entries, {len(ledger.roots)} members, {len(ledger.runs)} runs"


if __name__ == "__main__":
    try:
        with open(sys.argv[1], "rb") as ledger_file:
            print(f"OK: {verify(ledger_file)}")
    except (Bad, OSError) as why:
        print(why)
        sys.exit(1)
