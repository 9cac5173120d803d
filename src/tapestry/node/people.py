"""Who holds which key, as the core states it; and what a round's record must satisfy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from tapestry.errors import FormatError, IntegrityError, SignatureError, UnknownMember
from tapestry.identity.envelope import Envelope
from tapestry.protocol.message import Message
from tapestry.protocol.messages import Contribution
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RoundRecord
from tapestry.rounds.records import Earlier, check_merged, no_earlier
from tapestry.transport.client import CoreClient

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Whose node key it is."""

    member: str
    node: str
    public_key: str


class People:
    """Node keys by name; asked for again when an unknown one turns up.

    A signature made before its key was revoked or had expired stays good, and a record does not say
    when it was made: so for an accepted contribution both are passed over here. The core refuses new
    ones (`identity.keyring`), and the event log shows the order.
    """

    def __init__(self, client: CoreClient) -> None:
        self._client = client
        self._holders: dict[str, Holder] = {}

    def verify(self, envelope: Envelope) -> tuple[Contribution, Holder]:
        """A contribution signed by the node it names.

        Raises:
            UnknownMember: no member has certified the key.
            SignatureError: the signature is wrong, or another node's.
        """
        if len(envelope.signatures) != 1:
            raise SignatureError("a contribution in a round's record has not exactly one signature")
        name = envelope.signatures[0].keyid
        if name not in self._holders:
            self._holders = holders(self._client.members())
        holder = self._holders.get(name)
        if holder is None:
            raise UnknownMember(f"a contribution is signed by key {name[:16]}, which no member has certified")
        contribution = envelope.open_as(Contribution, holder.public_key)
        if (contribution.member, contribution.node) != (holder.member, holder.node):
            raise SignatureError(
                f"a contribution of {contribution.node} is signed by the key of {holder.node}"
            )
        return contribution, holder


def holders(answer: Any) -> dict[str, Holder]:
    try:
        return {
            key["key_id"]: Holder(member=member["member"], node=key["node"], public_key=key["public_key"])
            for member in answer["members"]
            for key in member["keys"]
            if key["role"] == "node"
        }
    except (KeyError, TypeError) as e:
        raise FormatError("the core's list of members is not one") from e


def check_record(
    record: RoundRecord, plan: Plan, consortium: str, people: People, earlier: Earlier = no_earlier
) -> None:
    """Signatures, bindings and weights of a round, as this node finds them; `earlier` as of `check_merged`.

    Raises:
        SignatureError, UnknownMember: a contribution that its node did not sign.
        IntegrityError: the record contradicts itself.
        MergeMismatch: other weights than the plan gives.
    """
    what = f"round {record.round} of run {record.run}"
    if len(record.envelopes) != len(record.merged):
        raise IntegrityError(f"the record of {what} has not one envelope for each contribution")
    said = []
    for merged, text in zip(record.merged, record.envelopes, strict=True):
        envelope = Envelope.from_bytes(text.encode())
        contribution, _ = people.verify(envelope)
        if contribution.consortium != consortium or envelope.digest != merged.contribution:
            raise SignatureError(f"{what}: the contribution of {merged.node} was signed for something else")
        said.append(contribution)
    check_merged(record, plan, said, earlier)


def said_by_member(envelope: Envelope, kind: type[M], known: dict[str, Holder], consortium: str) -> M:
    """A member's word about something of its own, with fields `consortium`, `member` and `node`.

    Raises:
        FormatError: not one signature, or another message.
        SignatureError: the member it names did not sign it.
    """
    what = kind.format_name()
    if len(envelope.signatures) != 1:
        raise FormatError(f"a {what} has not exactly one signature")
    holder = known.get(envelope.signatures[0].keyid)
    if holder is None:
        raise SignatureError(f"a {what} is signed by a key that no member has certified")
    said = envelope.open_as(kind, holder.public_key)
    named = tuple(getattr(said, name) for name in ("member", "node", "consortium"))
    if named != (holder.member, holder.node, consortium):
        raise SignatureError(f"a {what} names {named[0]}, and {holder.member} signed it")
    return said
