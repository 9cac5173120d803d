"""A member's vote: its key, which lies in the member's folder and on no node, and what it signs."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Final, Self

from tapestry.audit.papers import countersign
from tapestry.errors import (
    FormatError,
    HashMismatch,
    IntegrityError,
    SettingsError,
    SignatureError,
    TapestryError,
)
from tapestry.governance.charter import Charter
from tapestry.governance.disputes import Dispute, What
from tapestry.governance.entitlement import Countersignature, Entitlement
from tapestry.governance.proposal import Ballot, CharterSignature, Proposal, Subject
from tapestry.governance.tally import Choice
from tapestry.host import files
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.invitations import check_token, make_token
from tapestry.identity.keyring import make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.identity.logins import make_login
from tapestry.node import setup
from tapestry.node.home import Home
from tapestry.node.member import load_member, load_name, read_key
from tapestry.protocol import canonical
from tapestry.transport.client import CoreClient
from tapestry.transport.connection import Request

KEY, CERTIFICATE, WHERE = "vote.key", "vote.cert.json", "consortium.json"
NEXT: Final = "next."
"""Before the names of a key that is made and not in place yet."""
_HINT: Final = "make it a vote key: tapestry member key vote FOLDER --core URL"


def make_vote_key(
    folder: Path, core_url: str, *, invitation: str | None = None, ca: Path | None = None
) -> str:
    """Give a member a vote key that the core knows, and end the one it had; goes on where it was cut short.

    Args:
        folder: the member's, with its root key.
        core_url: where the core listens.
        invitation: of a member that has not joined with a node; it joins by this.
        ca: PEM file of the authority of the core's certificate, where the system does not know it.

    Returns:
        the id of the key.

    Raises:
        InvitationError, Conflict, Refused: the core's reasons.
        SettingsError: what lies in the folder cannot be used.
    """
    if invitation is not None:
        check_token(invitation)
    member = load_member(folder)
    with CoreClient(core_url, None, None, ca=ca) as client:
        hello = client.hello()
        pair, certificate = _next(folder)
        if certificate is None or pair is None:
            pair = KeyPair.generate()
            certificate = member.certify(node=None, role="vote", public_key=pair.public_key, now=hello.time)
            files.private_write(folder / (NEXT + KEY), pair.to_pem(), replace=True)
            files.write_atomic(folder / (NEXT + CERTIFICATE), certificate.to_bytes())
        setup.admit(client, member, hello.consortium, invitation or make_token(), [certificate])
        base_url = client.base_url
    joined = setup.Consortium(
        core_url=base_url,
        consortium=hello.consortium,
        core_key=hello.core_key,
        root_key=member.root.public_key,
        ca=setup.keep_ca(Home(folder), ca),
    )
    old = read_key(folder / KEY).key_id if (folder / KEY).exists() else None
    files.write_atomic(folder / WHERE, joined.to_bytes())
    files.write_atomic(folder / CERTIFICATE, certificate.to_bytes())
    files.private_write(folder / KEY, pair.to_pem(), replace=True)
    if old not in (None, pair.key_id):
        with Council(folder) as council:
            ended = make_revocation(member.root, member=member.name, revoked=str(old), reason="rotated")
            council.client.post_revocation(ended.model_dump(mode="json"))
    for name in (KEY, CERTIFICATE):
        (folder / (NEXT + name)).unlink(missing_ok=True)
    return pair.key_id


def _next(folder: Path) -> tuple[KeyPair | None, Envelope | None]:
    """A key that an earlier call has made and perhaps made known."""
    path = folder / (NEXT + CERTIFICATE)
    if not path.exists():
        return None, None
    return read_key(folder / (NEXT + KEY)), Envelope.from_bytes(files.read_limited(path, Envelope.MAX_BYTES))


class Council:
    """What one member signs, and asks the core, with its vote key alone.

    Args:
        folder: the member's; its root key need not lie there.
        core_url: where the core listens, if that is elsewhere by now.

    Raises `SettingsError` where the member has no vote key.
    """

    def __init__(self, folder: Path, core_url: str | None = None) -> None:
        self.name = load_name(folder).name
        try:
            data = files.read_limited(folder / WHERE, setup.Consortium.MAX_BYTES)
            joined = setup.Consortium.from_bytes(data)
        except FileNotFoundError as e:
            raise SettingsError(f"member {self.name} in {folder} has no vote key", hint=_HINT) from e
        except (OSError, TapestryError) as e:
            raise SettingsError(f"{folder / WHERE} cannot be read: {e}", hint=_HINT) from e
        self.consortium = joined.consortium
        self._pair = read_key(folder / KEY)
        ca = None if joined.ca is None else folder / joined.ca
        self.client = CoreClient(core_url or joined.core_url, joined.consortium, self._pair, ca=ca)

    def close(self) -> None:
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def sign_charter(self, charter: Charter) -> Envelope:
        """For the first charter; says nothing to the core."""
        said = CharterSignature(consortium=self.consortium, member=self.name, charter=charter.digest)
        return sign(said, self._pair)

    def sign_in(self, origin: str, challenge: str) -> Envelope:
        """Answer a dashboard's challenge; `origin` is the dashboard as the member knows it. Says nothing to
        the core."""
        return make_login(
            self._pair,
            consortium=self.consortium,
            origin=origin,
            challenge=challenge,
            member=self.name,
        )

    def charter(self) -> Charter:
        """In force. Raises `NotFound`."""
        return Charter.from_bytes(self.client.charter())

    def blob(self, sha: str) -> bytes:
        """A small blob of the core's, held against its hash. Raises `HashMismatch`."""
        data = self.client.connection.ask(
            Request(method="GET", path=f"/v1/blobs/{sha}"), cap=canonical.MAX_MESSAGE_BYTES
        )
        if canonical.sha256(data) != sha:
            raise HashMismatch(f"the core gives other bytes than {sha[:12]} names")
        return data

    def propose(self, subject: Subject, *, title: str, text: str) -> dict[str, Any]:
        """Put a question to the vote: its name, its place in the ledger, and when voting ends."""
        said = Proposal(
            consortium=self.consortium,
            member=self.name,
            charter=self.charter().digest,
            subject=subject,
            title=title,
            text=text,
            nonce=secrets.token_hex(16),
        )
        return dict(self.client.propose(sign(said, self._pair).to_bytes()))

    def vote(self, proposal: str, choice: Choice, *, reason: str) -> dict[str, Any]:
        """Cast the next ballot on a proposal: its place in the ledger, and when the core received it."""
        _, ballots = self.show(proposal)
        own = [each.number for each in ballots if each.member == self.name]
        said = Ballot(
            consortium=self.consortium,
            member=self.name,
            proposal=proposal,
            number=max(own, default=0) + 1,
            choice=choice,
            reason=reason,
        )
        answer = dict(self.client.vote(sign(said, self._pair).to_bytes()))
        return {**answer, "number": said.number}

    def countersign(self, certificate: Entitlement) -> Countersignature:
        """Of an entitlement, which the caller has held against the ledger; says nothing to the core."""
        return countersign(certificate, self.name, self._pair)

    def dispute(
        self, *, run: str, round: int | None, about: str, what: What, claim: str, reason: str
    ) -> dict[str, Any]:
        """Say that the account is wrong there: the name of what was recorded."""
        said = Dispute(
            consortium=self.consortium,
            member=self.name,
            run=run,
            round=round,
            about=about,
            what=what,
            claim=claim,
            reason=reason,
        )
        return dict(self.client.dispute(sign(said, self._pair).to_bytes()))

    def show(self, proposal: str) -> tuple[dict[str, Any], list[Ballot]]:
        """A proposal as the core shows it, with the ballots that were cast, oldest first.

        Every signature is verified, with the keys that the core states; that these are what every member has
        is what the ledger shows.

        Raises:
            SignatureError: something its member has not signed.
            IntegrityError: the count is not of these ballots.
        """
        shown = self.client.proposal(proposal)
        keys = self._vote_keys()
        try:
            question = _signed(shown["envelope"], Proposal, keys)
            ballots = [_signed(each["envelope"], Ballot, keys) for each in shown["ballots"]]
            counted = {each["member"]: each["choice"] for each in shown["tally"]["votes"]}
        except (KeyError, TypeError) as e:
            raise FormatError("the core's proposal is not one") from e
        if question.digest != proposal or any(each.proposal != proposal for each in ballots):
            raise IntegrityError(
                f"the core shows another proposal than {proposal[:12]}, or ballots on another"
            )
        if counted != {each.member: each.choice for each in ballots}:
            raise IntegrityError(
                f"the core's count of {proposal[:12]} is not of the ballots it shows",
                hint="look at the ledger: tapestry ledger verify",
            )
        shown["text"], shown["subject"] = question.text, question.subject.model_dump(mode="json")
        return shown, ballots

    def _vote_keys(self) -> dict[str, tuple[str, str]]:
        """Names of keys → member and key, ended ones too."""
        try:
            return {
                key["key_id"]: (each["member"], key["public_key"])
                for each in self.client.members()["members"]
                for key in each["keys"]
                if key["role"] == "vote"
            }
        except (KeyError, TypeError) as e:
            raise FormatError("the core's list of members is not one") from e


def _signed(text: Any, kind: type[Any], keys: dict[str, tuple[str, str]]) -> Any:
    envelope = Envelope.from_bytes(str(text).encode())
    said = envelope.open_as(kind, lambda name: keys.get(name, ("", None))[1])
    if len(envelope.signatures) != 1 or keys[envelope.signatures[0].keyid][0] != said.member:
        raise SignatureError(f"{kind.format_name()} of {said.member} is signed by another member")
    return said


def signatures(paths: list[Path]) -> list[Envelope]:
    """What members have signed for a charter, from files. Raises `SettingsError`."""
    found = []
    for path in paths:
        try:
            data = files.read_limited(path, Envelope.MAX_BYTES)
            found.append(Envelope.from_json(canonical.decode(data.strip(), what=str(path))))
        except (OSError, TapestryError) as e:
            raise SettingsError(
                f"{path} is not a signature of a charter: {e}", hint="write it with: tapestry charter sign"
            ) from e
    return found
