"""`tapestry entitlement`: certificates of who has a right to a released base."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tapestry.cli.ledgers import Ledger, Verify, lines_of, tell
from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, emit_line, emit_pairs, emit_table, note, short

if TYPE_CHECKING:
    from tapestry.audit.grants import Grants
    from tapestry.audit.papers import Checked
    from tapestry.governance.entitlement import Countersignature, Entitlement, Paper
    from tapestry.ledger.entries import VoteKey

app = typer.Typer(help="Entitlements: certificates of rights to a released base.", no_args_is_help=True)

PaperFile = Annotated[Path, typer.Argument(metavar="FILE", help="The certificate.")]
RIGHTS = {
    "use": "use the base",
    "derive": "make derivatives of it",
    "redistribute": "pass it on",
    "own-derivative": "own what it derives",
}


@app.command("list")
def list_(ledger: Ledger, verify: Verify = True, as_json: Json = False) -> None:
    """Every accepted release, and how each member stands to it: by which numbers it has a right, or why not.

    Example: tapestry entitlement list ./node
    """
    from tapestry.cli.account_tables import percent
    from tapestry.errors import Conflict

    grants = _grants(ledger, verify=verify)
    found = []
    for release in grants.releases.values():
        try:
            found += grants.grants(release.name)
        except Conflict as e:
            note(e.message)
    if as_json:
        releases = [
            {
                "release": each.name,
                "state": each.state,
                "decision": each.item.proposal,
                "decided": each.decided,
                "at": each.at,
                "charter": each.charter.digest,
                "signatures": each.needed,
                "signers": [one.model_dump(mode="json") for one in each.signers],
                "revoked": each.name in grants.revoked,
                "members": [
                    {
                        "member": one.member,
                        "granted": one.verdict.granted,
                        "why": one.verdict.why,
                        **one.given.model_dump(mode="json"),
                    }
                    for one in found
                    if one.release == each.name
                ],
            }
            for each in grants.releases.values()
        ]
        emit_json({"consortium": grants.found.consortium, "releases": releases})
        return
    columns = ("release", "member", "right", "merges", "weight", "tokens", "why not")
    emit_table(
        columns,
        [
            (
                one.release + (" (revoked)" if one.release in grants.revoked else ""),
                one.member,
                "yes" if one.verdict.granted else "no",
                f"{one.given.rounds} of {one.given.of_merges}",
                percent(one.given.share),
                f"{one.given.tokens:,}",
                one.verdict.why or "-",
            )
            for one in found
        ],
        right=("merges", "weight", "tokens"),
    )
    if not grants.releases:
        note("the members have accepted no release: tapestry proposal new accept-release")


@app.command()
def make(
    ledger: Ledger,
    release: Annotated[str, typer.Option(help="Name of the release.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where it is written; a folder where no member is named.")
    ],
    member: Annotated[
        str | None, typer.Option("--member", help="Whose; without it, of all who have a right to it.")
    ] = None,
    signed: Annotated[
        list[Path],
        typer.Option("--signed", metavar="FILE", help="Copies that holders have signed, to be put together."),
    ] = [],  # noqa: B006 - typer copies it
    verify: Verify = True,
    as_json: Json = False,
) -> None:
    """Make certificates from the ledger, for holders to countersign. Whoever has the ledger makes the same.

    Where the file is there already, its signatures are kept, and its proofs become newer ones. Copies that
    several holders have signed at the same time are put together by --signed.

    Examples: tapestry entitlement make ./node --release one --member acme --out acme-one.json

    tapestry entitlement make ./node --release one --member acme --out acme.json --signed a.json
    """
    from tapestry.errors import InputError
    from tapestry.host import files

    if out.exists() and out.is_dir() != (member is None):
        what = "a folder" if member is not None else "no folder"
        raise InputError(
            f"{out} is {what}", hint="--out is a file where --member is given, and a folder where it is not"
        )
    grants = _grants(ledger, verify=verify)
    one = grants.release(release)
    if member is not None:
        papers = [(out, grants.paper(release, member))]
    else:
        names = [each.member for each in grants.grants(release) if each.verdict.granted]
        made = grants.papers(release, names)
        papers = [(out / f"{paper.certificate.member}.json", paper) for paper in made]
    papers = [(path, _gathered(paper, path, signed, one.signers)) for path, paper in papers]
    (out if member is None else out.parent).mkdir(parents=True, exist_ok=True)
    for path, paper in papers:
        files.write_atomic(path, paper.to_bytes() + b"\n")
    if release in grants.revoked:
        note(f"release {release} was revoked later; the rights to its base stay")
    signers = [each.member for each in one.signers]
    if as_json:
        emit_json(
            {
                "certificates": [
                    {"file": str(path), **_as_json(paper.certificate)} for path, paper in papers
                ],
                "signatures": one.needed,
                "signers": signers,
            }
        )
        return
    for path, _ in papers:
        emit_line(str(path))
    note(
        f"{one.needed} of {', '.join(signers) or 'nobody'} must sign: "
        "tapestry entitlement sign FILE --member FOLDER --ledger LEDGER"
    )


@app.command()
def sign(
    file: PaperFile,
    member: Annotated[Path, typer.Option("--member", metavar="FOLDER", help="Folder of the holder.")],
    ledger: Annotated[
        str, typer.Option("--ledger", help="The holder's own copy of the ledger: its node, or a file.")
    ],
    as_json: Json = False,
) -> None:
    """Countersign a certificate with the member's vote key; the signature is added to the file.

    It is refused unless this ledger gives that very certificate. Whoever the rule entitles is owed the
    signature: a holder decides nothing here.

    Example: tapestry entitlement sign acme-one.json --member ./birch --ledger ./birch-node
    """
    from tapestry.audit.papers import with_signature
    from tapestry.errors import KeyRefused
    from tapestry.host import files
    from tapestry.identity.keys import key_id
    from tapestry.node.council import Council

    paper = _read(file)
    grants = _grants(ledger)
    grants.hold(paper.certificate)
    release = grants.release(paper.certificate.release)
    with Council(member) as council:
        signature = council.countersign(paper.certificate)
    named = {each.member: each.key_id for each in release.signers}
    if named.get(signature.member) != key_id(signature.public_key):
        raise KeyRefused(
            f"the key of {signature.member} was not the vote key of a holder when release {release.name} was "
            "accepted",
            hint=f"these can sign: {', '.join(sorted(named)) or 'nobody'}; if they are too few, accept the "
            "same state under a new name",
        )
    bare = paper.model_copy(update={"signatures": ()})
    paper = with_signature(_with_good(bare, paper.signatures, release.signers, file), signature)
    files.write_atomic(file, paper.to_bytes() + b"\n")
    signed = [each.member for each in paper.signatures]
    if as_json:
        emit_json({"file": str(file), "signed": signed, "needed": release.needed})
        return
    emit_line(str(file))
    note(f"signed by {', '.join(signed)}; {release.needed} are needed")


@app.command()
def verify(
    file: PaperFile,
    core_key: Annotated[
        str | None, typer.Option("--core-key", metavar="KEY", help="The core's public key, 64 digits.")
    ] = None,
    root: Annotated[
        str | None, typer.Option("--root", metavar="HASH", help="Root of the ledger's tree that you know.")
    ] = None,
    consortium: Annotated[
        str | None, typer.Option("--consortium", metavar="ID", help="Which consortium it must be of.")
    ] = None,
    ledger: Annotated[
        str | None, typer.Option("--ledger", help="A ledger, from which everything is worked out again.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="HASH|DIR",
            help="Base or state that it must be for; or a folder of `run export`, whose weights are hashed.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a certificate: no network, no clock, no ledger needed, so also years later.

    Give the core's key, or a root of the ledger that you know from elsewhere; or a ledger, and nobody has to
    be believed. With --base it is refused unless it is for that base.

    Example: tapestry entitlement verify acme-one.json --ledger ledger.jsonl
    """
    from tapestry.audit.papers import Known, check
    from tapestry.errors import EntitlementError

    core_key, root, consortium = (
        _digits(*each) for each in (("--core-key", core_key), ("--root", root), ("--consortium", consortium))
    )
    paper = _read(file)
    known = Known(core_key=core_key, root=root, consortium=consortium)
    if ledger is not None:
        grants = _grants(ledger)
        grants.hold(paper.certificate)
        head = grants.head_of(paper)
        if root not in (None, head):
            raise EntitlementError(
                f"the ledger in {ledger} has another root than the one you gave",
                hint="one of the two is of another ledger: ask members for the root that they have",
            )
        known = Known(core_key=core_key, root=head, consortium=consortium)
    found = check(paper, known, base=None if base is None else _base(base, paper.certificate))
    if as_json:
        emit_json(
            {
                "holds": True,
                "recomputed": ledger is not None,
                "signed": list(found.signed),
                "needed": found.needed,
                "holders": list(found.holders),
                "core_key": found.core_key,
                "head": {"size": found.head.size, "root": found.head.root.hex()},
                **_as_json(found.certificate),
            }
        )
        return
    _tell(found)
    if ledger is not None:
        note("all of it was worked out again from the ledger")
    else:
        note(
            f"what {found.certificate.member} gave is the word of those who signed; with --ledger it is "
            "worked out again"
        )


def _digits(option: str, given: str | None) -> str | None:
    """What a person has typed or pasted as a key or a hash."""
    from tapestry.errors import InputError
    from tapestry.protocol.canonical import is_sha256

    found = given if given is None else given.strip().lower()
    if found is not None and not is_sha256(found):
        raise InputError(
            f"{option} takes 64 hexadecimal digits, not {str(given)[:80]!r}",
            hint="a core's key and the consortium's id stand in consortium.json of every member's and node's "
            "folder",
        )
    return found


def _base(given: str, certificate: Entitlement) -> str:
    """The hash that was given, or that of the weights in a folder."""
    from tapestry.cli.basefile import base_of
    from tapestry.errors import InputError
    from tapestry.protocol.canonical import is_sha256

    if is_sha256(given):
        return given
    if not Path(given).is_dir():
        raise InputError(
            f"{given[:80]!r} is neither a hash nor a folder",
            hint="give 64 hexadecimal digits, or a model's folder",
        )
    return base_of(Path(given), certificate.base.layout)


def _grants(ledger: str, *, verify: bool = True) -> Grants:
    from tapestry.audit.grants import Grants

    return Grants(lines_of(ledger), tell, verify=verify)


def _read(file: Path) -> Paper:
    from tapestry.errors import FormatError, InputError
    from tapestry.governance.entitlement import Paper
    from tapestry.host import files

    try:
        data = files.read_limited(file, Paper.MAX_BYTES)
    except OSError as e:
        raise InputError(
            f"cannot read {file}: {e.strerror}", hint="give a certificate of: tapestry entitlement make"
        ) from e
    if not data.endswith(b"\n"):
        raise FormatError(
            f"{file} was cut off", hint="have it sent anew, or make it: tapestry entitlement make"
        )
    return Paper.from_bytes(data[:-1])


def _gathered(paper: Paper, path: Path, signed: list[Path], signers: Sequence[VoteKey]) -> Paper:
    """With the good signatures of copies, and of the file that it replaces. Raises `InputError` for files of
    another certificate."""
    from tapestry.errors import InputError

    for copy in (*([path] if path.exists() else []), *signed):
        other = _read(copy)
        if other.certificate != paper.certificate:
            raise InputError(
                f"{copy} is another certificate than that of {paper.certificate.member} for release "
                f"{paper.certificate.release}",
                hint="name another file with --out, or look which ledger it was made from",
            )
        paper = _with_good(paper, other.signatures, signers, copy)
    return paper


def _with_good(
    paper: Paper, given: Iterable[Countersignature], signers: Sequence[VoteKey], file: Path
) -> Paper:
    """With those that count. One that does not would make the whole paper fail, and could take the place of
    one that does: whoever had the file in its hands may have put it there."""
    from tapestry.audit.papers import counts, with_signature

    for each in given:
        if counts(paper.certificate, each, signers):
            paper = with_signature(paper, each)
        else:
            note(f"what stands in {file} as the signature of {each.member} is not good; it is left out")
    return paper


def _as_json(certificate: Entitlement) -> dict[str, Any]:
    return {"digest": certificate.digest, "certificate": certificate.model_dump(mode="json")}


def _tell(found: Checked) -> None:
    said = found.certificate
    emit_pairs(
        [
            ("member", f"{said.member}, root key {said.root_key}"),
            ("may", ", ".join(RIGHTS[each] for each in said.rights)),
            ("release", f"{said.release}, accepted {said.at} (entry {said.decided})"),
            ("base", said.base.base),
            ("state", f"{said.base.state} (run {said.base.run}, merge {said.base.merges})"),
            ("model", said.base.model),
            ("gave", f"{said.given.rounds} of {said.given.of_merges} merges, {said.given.tokens:,} tokens"),
            ("charter", f"revision {said.revision}, {said.charter}"),
            ("signed by", f"{', '.join(found.signed)} ({found.needed} of {len(found.holders)} are needed)"),
            ("consortium", said.consortium),
            ("ledger", f"{found.head.size} entries, root {short(found.head.root.hex())}"),
        ]
    )
