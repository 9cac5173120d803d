"""`tapestry proposal` and `tapestry vote`: what members decide together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, emit_line, emit_pairs, emit_table, human_seconds, note, short

if TYPE_CHECKING:
    from tapestry.governance.proposal import Subject
    from tapestry.node.council import Council

app = typer.Typer(help="Proposals: what the members decide by vote.", no_args_is_help=True)

Voter = Annotated[Path, typer.Option("--member", metavar="FOLDER", help="Folder of the member.")]
CoreUrl = Annotated[
    str | None, typer.Option("--core", metavar="URL", help="Where the core listens, if elsewhere by now.")
]
Which = Annotated[
    str, typer.Argument(metavar="PROPOSAL", help="Its name, or the first digits of it (at least 6).")
]
LEAST_DIGITS = 6
OUTCOMES = {
    "passed": "passed",
    "no-quorum": "too few took part",
    "too-few-yes": "too few members said yes",
    "not-approved": "not approved",
}


@app.command()
def new(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="admit, suspend, expel, appoint-operator (--about); replace-root-key (--about, --root-key); "
            "hear-appeal (--about, --decision); ratify-plan (--run); revise-plan (--plan); "
            "open-phase (--phase); change-charter (--charter); "
            "accept-release (--release, --state); revoke-release (--release).",
        ),
    ],
    member: Voter,
    title: Annotated[str, typer.Option(help="One line for the list.")] = "",
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Why: a text file, or - for stdin.")
    ] = None,
    about: Annotated[str | None, typer.Option(help="The member that the decision is about.")] = None,
    run: Annotated[str | None, typer.Option(help="The planned run that may start.")] = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="PLAN.toml", help="The run's new plan, as for `run revise`.")
    ] = None,
    phase: Annotated[str | None, typer.Option(help="Name of the phase.")] = None,
    charter: Annotated[Path | None, typer.Option(metavar="FILE", help="The new charter (TOML).")] = None,
    release: Annotated[str | None, typer.Option(help="Name of the release.")] = None,
    state: Annotated[str | None, typer.Option(metavar="DIGEST", help="The state that is released.")] = None,
    root_key: Annotated[str | None, typer.Option(metavar="KEY", help="The member's new root key.")] = None,
    decision: Annotated[
        str | None, typer.Option(metavar="PROPOSAL", help="The decision that is appealed against.")
    ] = None,
    core: CoreUrl = None,
    as_json: Json = False,
) -> None:
    """Put a question to the vote of the members. Printed is its name, by which they vote on it.

    Examples: tapestry proposal new ratify-plan --run first --title "First run" --text why.txt --member ./acme

    tapestry proposal new admit --about delta --member ./acme

    tapestry proposal new change-charter --charter charter.toml --member ./acme
    """
    from tapestry.node.council import Council

    given = {
        "about": about,
        "run": run,
        "plan": plan,
        "phase": phase,
        "charter": charter,
        "release": release,
        "state": state,
        "root_key": root_key,
        "decision": decision,
    }
    why = _text(text)
    with Council(member, core) as council:
        subject = _subject(council, kind, {name: value for name, value in given.items() if value is not None})
        answer = council.propose(subject, title=title or _title(subject), text=why)
    if as_json:
        emit_json(answer)
        return
    emit_line(str(answer["proposal"]))
    note(f"open until {answer['closes']}; entry {answer['sequence']} of the ledger")
    note(f"members vote with: tapestry vote {str(answer['proposal'])[:12]} yes --member FOLDER")


@app.command("list")
def list_(
    member: Voter,
    open_only: Annotated[bool, typer.Option("--open", help="Only what is still voted on.")] = False,
    core: CoreUrl = None,
    as_json: Json = False,
) -> None:
    """All proposals, oldest first: what is voted on until when, and what was decided.

    Example: tapestry proposal list --open --member ./acme
    """
    from tapestry.node.council import Council

    with Council(member, core) as council:
        answer = council.client.proposals()
    found = [each for each in answer["proposals"] if not open_only or each["outcome"] is None]
    if as_json:
        emit_json({**answer, "proposals": found})
        return
    rows = [
        (
            short(each["proposal"]),
            each["kind"],
            each["about"] or "-",
            each["title"],
            each["member"],
            len(each["voted"]),
            _standing(each, answer["now"]),
        )
        for each in found
    ]
    emit_table(("proposal", "decision", "about", "title", "by", "voted", "standing"), rows, right=("voted",))
    if answer["charter"] is None:
        note("this consortium has no charter: its operator decides; see: tapestry charter adopt")


@app.command()
def show(proposal: Which, member: Voter, core: CoreUrl = None, as_json: Json = False) -> None:
    """A proposal with its text, who voted how and why, the count (so far, while it is open), the time left.

    Every signature is verified. That all members see the same, the ledger shows: tapestry ledger verify.

    Example: tapestry proposal show 1a2b3c4d5e6f --member ./acme
    """
    from tapestry.node.council import Council

    with Council(member, core) as council:
        shown, ballots = council.show(_named(council, proposal))
        if shown["kind"] == "open-phase":
            shown["thresholds"] = _thresholds(council, shown["subject"]["phase"])
    said = [each.model_dump(mode="json", exclude={"format", "version", "consortium"}) for each in ballots]
    if as_json:
        emit_json({**shown, "ballots": said})
        return
    tally = shown["tally"]
    emit_line(f"{shown['title']}")
    emit_pairs(
        [
            ("proposal", shown["proposal"]),
            ("decision", shown["kind"] + (f" {shown['about']}" if shown["about"] else "")),
            ("proposed by", f"{shown['member']}, entry {shown['sequence']} of the ledger"),
            ("charter", short(shown["charter"])),
            ("standing", _standing(shown, shown["now"])),
            *([("its phase", _lacking(shown["thresholds"]))] if "thresholds" in shown else ()),
            ("yes, no, abstain", f"{tally['yes']}, {tally['no']}, {tally['abstain']} of all votes"),
            ("took part", f"{tally['quorum']['reached']} (needed: {tally['quorum']['needed']})"),
            ("approval", f"{tally['approval']['reached']} (needed: {tally['approval']['needed']})"),
            ("members for it", f"{tally['yes_members']} (needed: {tally['yes_members_needed']})"),
            ("have no vote", ", ".join(f"{e['member']} ({e['reason']})" for e in tally["left_out"]) or None),
        ]
    )
    if shown["text"]:
        emit_line("")
        emit_line(shown["text"].rstrip("\n"))
    emit_line("")
    share = {each["member"]: each["share"] for each in tally["electors"]}
    last = {each.member: each for each in ballots}
    emit_table(
        ("member", "votes", "choice", "reason"),
        [
            (name, share[name], last[name].choice if name in last else "-", _reason(last.get(name)))
            for name in sorted(share)
        ],
    )


def vote(
    proposal: Which,
    choice: Annotated[str, typer.Argument(metavar="CHOICE", help="yes, no or abstain.")],
    member: Voter,
    reason: Annotated[str, typer.Option(help="Why; every member can read it.")] = "",
    core: CoreUrl = None,
    as_json: Json = False,
) -> None:
    """Vote on a proposal. Until its deadline you may vote again: the last ballot counts.

    Example: tapestry vote 1a2b3c4d5e6f yes --reason "good plan" --member ./acme
    """
    from tapestry.errors import InputError
    from tapestry.node.council import Council

    if choice not in ("yes", "no", "abstain"):
        raise InputError(f"{choice!r} is no vote", hint="vote yes, no or abstain")
    with Council(member, core) as council:
        name = _named(council, proposal)
        answer = council.vote(name, choice, reason=reason)  # type: ignore[arg-type]
    if as_json:
        emit_json({**answer, "choice": choice})
        return
    emit_line(str(answer["sequence"]))
    note(
        f"{council.name} votes {choice} on {short(name)}: ballot {answer['number']}, received {answer['at']}"
    )


# -- what is given ----------------------------------------------------------------------------------


def _subject(council: Council, kind: str, given: dict[str, Any]) -> Subject:
    from pydantic import TypeAdapter, ValidationError

    from tapestry.errors import InputError
    from tapestry.governance.proposal import Subject
    from tapestry.governance.words import ABOUT_ONE, KINDS
    from tapestry.protocol.message import explain

    if kind not in KINDS:
        raise InputError(f"{kind!r} is no kind of decision", hint=f"one of: {', '.join(KINDS)}")
    needs: dict[str, tuple[str, ...]] = {
        "ratify-plan": ("run",),
        "revise-plan": ("plan",),
        "open-phase": ("phase",),
        "change-charter": ("charter",),
        "accept-release": ("release", "state"),
        "revoke-release": ("release",),
        "replace-root-key": ("about", "root_key"),
        "hear-appeal": ("about", "decision"),
    }
    wanted = needs.get(kind, ("about",) if kind in ABOUT_ONE else ())
    for name in wanted:
        if name not in given:
            raise InputError(
                f"a proposal to {kind} needs --{name.replace('_', '-')}",
                hint="see tapestry proposal new --help",
            )
    if odd := sorted(given.keys() - {*wanted}):
        raise InputError(
            f"a proposal to {kind} has no --{odd[0].replace('_', '-')}",
            hint="leave it out; see tapestry proposal new --help",
        )
    fields = {"member" if name == "about" else name: value for name, value in given.items()}
    if kind == "ratify-plan":
        fields["plan"] = council.client.run(given["run"]).plan
    elif kind == "revise-plan":
        fields = {"plan": _revised(council, given["plan"])}
    elif kind == "change-charter":
        from tapestry.cli.charterfile import load

        fields["charter"] = load(given["charter"])
    elif kind == "hear-appeal":
        fields["decision"] = _named(council, given["decision"])
    adapter: TypeAdapter[Subject] = TypeAdapter(Subject)
    try:
        return adapter.validate_python({"kind": kind, **fields})
    except ValidationError as e:
        raise InputError(
            f"that cannot be proposed: {explain(e)}",
            hint="see docs/formats/votes.md for what each kind takes",
        ) from e


def _revised(council: Council, path: Path) -> Any:
    """The plan that `run revise` makes of a file."""
    from tapestry.cli import planfile
    from tapestry.protocol.plan import Plan

    read = planfile.load(path)
    before = Plan.from_bytes(council.blob(council.client.run(read.run.name).plan))
    fixed = {name: getattr(before, name) for name in ("model", "layout", "initial_state", "parameters")}
    return read.plan(**fixed, origin=before.origin, revision=before.revision + 1)


def _text(path: Path | None) -> str:
    import sys

    from tapestry.errors import InputError
    from tapestry.governance.proposal import MAX_TEXT
    from tapestry.host import files

    if path is None:
        return ""
    try:
        data = (
            sys.stdin.buffer.read(4 * MAX_TEXT + 1)
            if str(path) == "-"
            else files.read_limited(path, 4 * MAX_TEXT)
        )
        text = data.decode("utf-8").replace("\r\n", "\n").replace("\t", "    ")
    except OSError as e:
        raise InputError(
            f"cannot read {path}: {e.strerror}", hint="name a file of text, or - for standard input"
        ) from e
    except UnicodeDecodeError as e:
        raise InputError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from e
    if len(text) > MAX_TEXT:
        raise InputError(
            f"{path} has {len(text)} characters; a proposal has at most {MAX_TEXT}",
            hint="put the rest where members can read it, and name its address",
        )
    return text


def _title(subject: Subject) -> str:
    from tapestry.governance.proposal import about

    of = about(subject) or getattr(subject, "run", None) or getattr(subject, "release", None) or ""
    return f"{subject.kind} {of}".strip()


def _named(council: Council, given: str) -> str:
    """A proposal by its name or the beginning of it. Raises `InputError` or `NotFound`."""
    from tapestry.errors import InputError, NotFound
    from tapestry.protocol.canonical import is_sha256

    if is_sha256(given):
        return given
    if len(given) < LEAST_DIGITS:
        raise InputError(f"{given!r} is too short to name a proposal", hint="see: tapestry proposal list")
    names = [str(each["proposal"]) for each in council.client.proposals()["proposals"]]
    found = [name for name in names if name.startswith(given)]
    if len(found) != 1:
        what = "no proposal begins" if not found else f"{len(found)} proposals begin"
        raise NotFound(f"{what} with {given!r}", hint="see: tapestry proposal list")
    return found[0]


# -- how it is shown ----------------------------------------------------------------------------------


def _thresholds(council: Council, name: str) -> dict[str, Any] | None:
    """How a phase stands now, by the core's word; None of one that the charter does not have."""
    every = council.client.phases()["phases"]
    return next(
        ({"go": each["go"], "missing": each["missing"]} for each in every if each["phase"] == name), None
    )


def _lacking(thresholds: dict[str, Any] | None) -> str:
    if thresholds is None:
        return "not in the charter"
    return "has what it needs" if thresholds["go"] else "lacks " + "; ".join(thresholds["missing"])


def _standing(each: dict[str, Any], now: str) -> str:
    from tapestry.protocol.clock import seconds_between

    outcome = each["outcome"]
    if outcome is None:
        left_s = seconds_between(now, each["closes"])
        return f"open, {human_seconds(left_s)} left" if left_s > 0 else "to be counted"
    if outcome["verdict"] == "passed" and not outcome["in_force"]:
        return f"passed, but {'not opened' if each['kind'] == 'open-phase' else 'overtaken'}"
    return OUTCOMES.get(outcome["verdict"], str(outcome["verdict"]))


def _reason(ballot: Any) -> str:
    return str(ballot.reason).replace("\n", " ") if ballot is not None else ""
