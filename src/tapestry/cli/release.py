"""`tapestry release`: bases that the members have accepted, signed by k of n, and fetched by anybody."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tapestry.cli.options import Json
from tapestry.cli.output import (
    counted,
    emit_json,
    emit_line,
    emit_pairs,
    emit_table,
    human_bytes,
    note,
    short,
)

if TYPE_CHECKING:
    from tapestry.release.checking import Checked

app = typer.Typer(help="Releases: propose, sign, publish, fetch.", no_args_is_help=True)

CoreOption = Annotated[Path, typer.Option("--core", metavar="HOME", help="Folder of the core.")]
Repository = Annotated[
    Path, typer.Option("--repository", metavar="DIR", help="Folder of the repository that is published.")
]
DraftFolder = Annotated[Path, typer.Argument(metavar="DRAFT", help="Folder of `release propose`.")]
TELL_EVERY = 5000
WARN_DAYS = 60
"""Before the holders' signatures run out."""


@app.command()
def propose(
    core: CoreOption,
    repository: Repository,
    out: Annotated[Path, typer.Option(metavar="DRAFT", help="Folder to make; it must not exist.")],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="The release; left out, revocations and holders are brought up to date."
        ),
    ] = None,
    leakage: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A node's leakage report for this release, as `node leakage --signed` writes it; may be "
            "given several times.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Put together what the holders are asked to sign: a release that the members have accepted by vote.

    Without NAME: revoked releases go, and a new list of holders comes, as ledger and charter say now.

    Examples: tapestry release propose base-1 --core ./core --repository ./releases --out ./draft

    tapestry release propose --core ./core --repository ./releases --out ./draft
    """
    from tapestry.cli import release_work

    checked = release_work.propose(core, name, repository, out, _told, leakage or ())
    if as_json:
        emit_json({"draft": str(out), **_as_json(checked)})
        return
    emit_line(str(out))
    _show(checked)
    note(
        f"give the folder to the holders; {checked.root.roles['targets'].threshold} of them must sign: "
        "tapestry release sign"
    )


@app.command()
def sign(
    draft: DraftFolder,
    member: Annotated[
        Path, typer.Option("--member", metavar="FOLDER", help="Folder of the member, with its keys.")
    ],
    ledger: Annotated[
        str,
        typer.Option("--ledger", metavar="WHERE", help="Your node's folder, or what `ledger verify` takes."),
    ],
    look_only: Annotated[bool, typer.Option("--look-only", help="Check and show, and sign nothing.")] = False,
    repository: Annotated[
        str | None,
        typer.Option("--repository", metavar="SOURCE", help="Compare with what is published there, too."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="ROOT.json", help="With --repository: the root you trust."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a draft against your own ledger, show it, and sign it with the member's release key.

    Everything is made anew from the ledger; nothing of the draft is believed. Send back the one file that is
    written into it.

    Examples: tapestry release sign ./draft --member ./acme --ledger ./node

    tapestry release sign ./draft --member ./acme --ledger ./node --repository https://models.example.org/releases
    --root ./root.json
    """
    from tapestry.cli import release_work
    from tapestry.errors import InputError

    if (repository is None) != (root is None):
        raise InputError("--repository and --root go together", hint="name both, or neither")
    shown = None if repository is None or root is None else (repository, root)

    with counted("weights checked") as progress:
        checked, own, path = release_work.sign(
            draft, member, ledger, shown=shown, look_only=look_only, told=_told, progress=progress
        )
    if as_json:
        emit_json({"member": own, "file": path, **_as_json(checked)})
        return
    _show(checked)
    if path is None:
        note("nothing was signed")
        return
    emit_line(str(draft / path))
    note(
        f"{own} has signed; the operator needs this file in the draft's folder for: tapestry release publish"
    )


@app.command()
def publish(draft: DraftFolder, core: CoreOption, repository: Repository, as_json: Json = False) -> None:
    """Publish a draft that enough holders have signed, in a folder that any web server can give out.

    Refused where signatures are missing, or where no decision in force is for the release. A mirror is a
    copy of the folder, made by any means.

    Example: tapestry release publish ./draft --core ./core --repository ./releases
    """
    from tapestry.cli import release_work

    with counted("weights checked") as progress:
        done = release_work.publish(draft, core, repository, _told, progress)
    if as_json:
        emit_json(done)
        return
    emit_line(str(repository))
    what = f"release {done['release']}" if done["release"] else "the list of releases"
    note(f"{what} is published, signed by {', '.join(done['signed'])}")
    note(f"those who fetch need {repository}/metadata/1.root.json, with SHA-256 {done['root']}")
    if not done["public"]:
        note("the charter keeps releases to the members: put this folder where nobody else can read it")
    note("call `tapestry release renew` once a day: a week without it, and clients refuse the repository")


@app.command()
def renew(core: CoreOption, repository: Repository, as_json: Json = False) -> None:
    """Say again that what is published is the newest; to be called once a day, by a timer.

    Clients refuse a repository that nobody has renewed for a week: it could be yesterday's.

    Example: tapestry release renew --core ./core --repository ./releases
    """
    from tapestry.cli import release_work
    from tapestry.release import published

    key, today = release_work.online_key(core, make=False), release_work.now()
    version, until = published.renew(repository, key, today)
    last = published.ends(repository)
    if as_json:
        emit_json({"timestamp": version, "until": until.isoformat()})
        return
    emit_line(str(version))
    note(f"{repository} is good until {until:%Y-%m-%d %H:%M} UTC")
    if (last - today).days < WARN_DAYS:
        note(
            f"what the holders have signed runs out on {last:%Y-%m-%d}, and then no renewing helps: "
            "tapestry release propose"
        )


@app.command()
def fetch(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Address or folder of a repository or mirror.")
    ],
    root: Annotated[
        Path,
        typer.Option(
            "--root", metavar="ROOT.json", help="The root you trust, from the consortium and no mirror."
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder to make.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="The release; else the newest in force.")] = None,
    trust: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where is kept what was seen; else with the user's state."),
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option(
            "--ledger", metavar="WHERE", help="Hold it against a ledger too, as `ledger verify` takes it."
        ),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", metavar="DATE", help="Take an archive as of that day: an old state is not noticed."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch a release, check it, and write it as a folder that plain transformers opens.

    Refused are a state older than one seen before, one that has run out, one that too few holders have
    signed, and every byte that was not signed. Without --out the releases are listed.

    Examples: tapestry release fetch https://models.example.org/releases --root ./root.json -o ./base-1

    tapestry release fetch /mnt/usb/releases --root ./root.json --name base-1 -o ./base-1

    tapestry release fetch ./releases --root ./root.json --ledger https://mirror.example.org/ledger -o ./base

    tapestry release fetch ./releases --root ./root.json
    """
    from tapestry.cli import release_work
    from tapestry.errors import InputError
    from tapestry.release import client

    data = release_work.root_bytes(root)
    seen, at = release_work.trust_folder(trust, data), release_work.day(as_of)
    if out is None:
        if name is not None:
            raise InputError(f"where is {name} to be written?", hint="name a folder: --out DIR")
        found = client.releases(source, root=data, trust=seen, as_of=at)
        if as_json:
            emit_json(found.model_dump(mode="json"))
            return
        rows = [
            (each.release, each.at[:10], "revoked" if each.revoked else "in force", short(each.state))
            for each in found.releases
        ]
        emit_table(("release", "accepted", "standing", "state"), rows)
        return
    view = None if ledger is None else release_work.view_of(ledger, _told)
    with counted("bytes") as progress:
        got = client.fetch(
            source, out, root=data, trust=seen, name=name, as_of=at, view=view, progress=progress
        )
    if as_json:
        emit_json(
            {
                "release": got.release.release,
                "state": got.release.state,
                "decision": got.release.decision,
                "folder": str(got.folder),
                "bytes": got.bytes,
                "holders": list(got.holders),
                "signatures": got.signatures,
                "signed_model": list(got.signed_model),
            }
        )
        return
    emit_line(str(out))
    note(
        f"release {got.release.release}, {human_bytes(got.bytes)}, signed by {got.signatures} or more of "
        f"{', '.join(got.holders)}; its weights are those of the state that the members accepted"
    )


def _told(done: int) -> None:
    if done % TELL_EVERY == 0:
        note(f"{done:,} entries hold")


def _as_json(checked: Checked) -> dict[str, Any]:
    facts = checked.facts
    return {
        "release": None if facts is None else facts.release,
        "state": None if facts is None else facts.state,
        "decision": None if facts is None else facts.decision,
        "targets": checked.targets.signed.version,
        "root": None if checked.new_root is None else checked.new_root.signed.version,
        "holders": _holders(checked),
        "signatures": checked.root.roles["targets"].threshold,
        "until": checked.targets.signed.expires.isoformat(),
    }


def _holders(checked: Checked) -> list[str]:
    from tapestry.release import roles

    return sorted(roles.members_of(checked.root).values())


def _show(checked: Checked) -> None:
    """What a signature is for."""
    from tapestry.release import roles

    facts, k = checked.facts, checked.root.roles["targets"].threshold
    pairs: list[tuple[str, Any]] = []
    if facts is not None:
        pairs = [
            ("release", facts.release),
            ("accepted", f"{facts.at}, entry {facts.sequence}, decision {short(facts.decision)}"),
            ("state", facts.state),
            ("run", f"{facts.run}, {facts.merges} merges"),
            ("members", ", ".join(each.member for each in facts.parts) or None),
            ("files", len(checked.digests)),
        ]
    pairs += [
        (
            "list",
            f"version {checked.targets.signed.version}, until {checked.targets.signed.expires:%Y-%m-%d}",
        ),
        ("holders", f"{k} of {', '.join(_holders(checked))}"),
    ]
    if checked.new_root is not None:
        number = checked.new_root.signed.version
        pairs.append(("new root", f"version {number}: holders, keys or dates change"))
        key, before = roles.online_key(checked.root), checked.current
        same = before is not None and roles.online_key(before.signed) == key
        said = (
            key if same else f"{key} (new: have the operator read it to you, on another way than the draft's)"
        )
        pairs.append(("operator's key", said))
    emit_pairs(pairs)
