"""What a bundle from somebody else holds: its own word, its list, proofs, data manifests, statements."""

from __future__ import annotations

from collections.abc import Sequence

from tapestry.bundle.data import DataManifest
from tapestry.bundle.manifest import Bundle, Inclusion, Lacking, Listed, Taken, list_lines, parse_list
from tapestry.bundle.statement import DataUse, Decided, Digest, Recorded, Residency, Statement, Subject, Used
from tapestry.protocol import canonical
from tests.fuzz.mutate import json_bytes, lines
from tests.fuzz.target import Parser, Target

SHA = "0123456789abcdef" * 4
AT = "2026-11-22T00:00:00.000Z"


def _bundles() -> Parser:
    taken = Taken(run="first", plan=SHA, state=SHA, merges=3, round=4)
    made = Bundle(
        kind="exit",
        consortium=SHA,
        member="acme",
        node="acme-1",
        made=AT,
        list=SHA,
        files=7,
        bytes=1234,
        entries=55,
        root=SHA,
        only=None,
        runs=(taken, taken.model_copy(update={"run": "second"})),
        contributions=2,
        derivatives=("letters", "songs"),
        lacking=(Lacking(what="manifests/x.json", why="lost"),),
    )
    few = made.model_copy(update={"kind": "evidence", "runs": (), "derivatives": (), "lacking": ()})
    return Parser(
        seeds=[made.to_bytes(), few.to_bytes()], call=lambda data: Bundle.from_bytes(data).to_bytes()
    )


def _lists() -> Parser:
    names = (
        "ledger.jsonl",
        "cards/a.json",
        f"blobs/01/{SHA}",
        "inner/run.3/.metadata",
        "models/r/config.json",
    )
    seed = b"".join(list_lines({name: Listed(SHA, 10 * n) for n, name in enumerate(names)}))

    def call(data: bytes) -> bytes:
        return b"".join(list_lines(parse_list(data.splitlines(keepends=True), "exit")))

    return Parser(seeds=[seed, seed * 3], call=call)


def _proofs() -> Parser:
    made = Inclusion(checkpoint="a\n\n— b c\n", entry="{}", envelope="{}", proof=(SHA,) * 9)
    return Parser(seeds=[made.to_bytes()], call=lambda data: Inclusion.from_bytes(data).to_bytes())


def _manifests() -> Parser:
    card = {
        "bytes": 9,
        "card": SHA,
        "documents": 3,
        "name": "a",
        "root": SHA,
        "stage": "base",
        "tokenizer": SHA,
    }
    value = {
        "format": "tapestry.data-manifest",
        "version": 2,
        "cards": [{**card, "tokens": {"train": 5, "valid": 1}}],
        "files": [{"bytes": 9, "path": f"train/{n}.txt", "sha256": SHA, "split": "train"} for n in range(5)],
    }
    return Parser(seeds=[canonical.encode(value)], call=lambda data: DataManifest.from_bytes(data).to_bytes())


def _statements() -> Parser:
    common = {
        "consortium": SHA, "member": "acme", "node": "acme-1", "run": "first", "round": 3,
        "recorded": Recorded(sequence=5, at=AT), "lacking": None,
    }  # fmt: skip
    digest = Digest(sha256=SHA)
    decided = Decided(permitted=False, rule="residency", rules=("residency", "own-terms"), day="2026-11-22")
    used = Used(name="letters", card=digest, stage="base", decision=decided)
    use = DataUse(**common, dataManifest=digest, tokens=9, steps=2, datasets=(used, used), policy=digest)
    place = Residency(**common, residency="CH", airlock="netns", datasets=())
    subject = (Subject(name="delta", digest=digest), Subject(name="contribution", digest=digest))
    kinds = (("urn:tapestry:assertion:data-use:1", use), ("urn:tapestry:assertion:residency:1", place))
    seeds = [Statement(subject=subject, predicateType=k, predicate=p).to_bytes() for k, p in kinds]
    return Parser(seeds=seeds, call=lambda data: Statement.from_bytes(data).to_bytes())


TARGETS: Sequence[Target] = (
    Target(name="bundle", open=_bundles, mutate=json_bytes),
    Target(name="bundle-list", open=_lists, mutate=lines(json_bytes)),
    Target(name="inclusion", open=_proofs, mutate=json_bytes),
    Target(name="data-manifest", open=_manifests, mutate=json_bytes),
    Target(name="statement", open=_statements, mutate=json_bytes),
)
