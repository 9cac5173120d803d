"""What a member pledges and confirms, signed with its vote key, and the pledges of all as they signed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from tapestry.errors import Conflict, FormatError, InputError, IntegrityError, NotFound
from tapestry.governance.charter import Charter
from tapestry.governance.pledge import MAX_NUMBER, Confirmation, Pledge, Pledged, key_of
from tapestry.governance.pledging import phase_of
from tapestry.governance.proposal import MAX_REASON
from tapestry.governance.resources import RESOURCES, UNITS, amount, example, fits, is_resource
from tapestry.identity.envelope import sign
from tapestry.node.council import Council, _signed
from tapestry.protocol import canonical
from tapestry.protocol.message import Message, explain

LEAST_DIGITS: Final = 6
TRIES: Final = 5
SIGNED: Final = ("member", "phase", "resource", "amount", "dataset", "number")
"""Of a pledge as the core shows it: what its member has said."""
_HINTS: Final = {
    "dataset": "it is pledged by a name of a-z, 0-9, '.', '_' and '-', at most 64: publish its card by one",
    "text": f"write at most {MAX_REASON} characters, without control characters",
}
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A pledge in force, and what its member, and those who have looked at it, say in words.

    Args:
        words: by the member whose word it is.
    """

    pledge: Pledged
    text: str
    words: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        found = self.pledge.model_dump(mode="json")
        words = [{**word, "text": self.words[word["member"]]} for word in found["words"]]
        return {**found, "words": words, "text": self.text}


class Pledging(Council):
    """A member that pledges, or looks at what others do."""

    def pledge(
        self, resource: str, text: str, *, phase: str | None, dataset: str | None, why: str
    ) -> dict[str, Any]:
        """Pledge so much, in the place of what was pledged before: what was signed, and its entry.

        Raises:
            InputError: the resource or the unit is not known, or several phases could be meant.
            NotFound: there is no such phase.
            Refused, Conflict: the core's reasons.
        """
        given = _amount(resource, text)
        charter = self.charter()
        name = phase or _only_phase(charter)
        phase_of(charter, name)
        held, _ = self.pledges()
        said = _written(
            Pledge,
            consortium=self.consortium,
            member=self.name,
            charter=charter.digest,
            phase=name,
            resource=resource,
            amount=given,
            dataset=dataset,
            number=1,
            text=why,
        )
        before = next((each.pledge.number for each in held if each.pledge.key == key_of(said)), 0)
        _not_without_end(before, "pledges for this")
        said = said.model_copy(update={"number": before + 1})
        answer = dict(self.client.pledge(sign(said, self._pair).to_bytes()))
        return {**answer, **said.model_dump(mode="json", exclude={"format", "version", "consortium"})}

    def confirm(self, given: str, *, stands: bool, why: str) -> dict[str, Any]:
        """Say whether another's pledge is real. `given`: its name, or the first digits of it."""
        held = self._named(given)
        last = held.word(self.name)
        _not_without_end(0 if last is None else last.number, "words about this pledge")
        said = _written(
            Confirmation,
            consortium=self.consortium,
            member=self.name,
            pledge=held.pledge,
            number=1 if last is None else last.number + 1,
            stands=stands,
            text=why,
        )
        answer = dict(self.client.confirm(sign(said, self._pair).to_bytes()))
        about = held.model_dump(mode="json", include={"member", "phase", "resource", "amount", "dataset"})
        return {**answer, "stands": stands, "of": about}

    def pledges(self) -> tuple[list[Held], dict[str, Any]]:
        """All pledges in force, and what else the core says of phases.

        Every signature is verified, with the keys that the core states, and the sums of each phase's table
        are of these pledges; that these are what every member has is what the ledger shows.

        Raises:
            SignatureError: something its member has not signed.
            IntegrityError: a table is not of these pledges.
            Conflict: it changes all the time.
        """
        for _ in range(TRIES):
            answer = self.client.phases()
            values, sequence = self.client.pledges()
            keys = self._vote_keys()
            if isinstance(answer, dict) and answer.get("sequence") == sequence:
                break
        else:
            raise Conflict("pledges and votes come faster than they are read", hint="call again")
        try:
            held = [_held(each, keys) for each in values]
            for phase in answer["phases"]:
                _check_sums(phase, [each.pledge for each in held])
        except (KeyError, TypeError, ValueError) as e:
            raise FormatError("the core's list of pledges is not one") from e
        return held, answer

    def _named(self, given: str) -> Pledged:
        held, _ = self.pledges()
        found = [each.pledge for each in held if each.pledge.pledge.startswith(given)]
        if len(given) < LEAST_DIGITS or len(found) != 1:
            what = "several pledges begin" if len(found) > 1 else "no pledge in force begins"
            what = "too few digits to find one" if len(given) < LEAST_DIGITS else what
            raise NotFound(f"{what} with {given!r}", hint="see: tapestry pledge list")
        return found[0]


def _written(kind: type[M], **fields: Any) -> M:
    """What is to be signed. Raises `InputError` for what cannot stand in it."""
    try:
        return kind(**fields)
    except ValidationError as e:
        what = str(e.errors()[0]["loc"][0])
        raise InputError(f"this cannot be signed: {explain(e)}", hint=_HINTS.get(what)) from e


def _not_without_end(before: int, what: str) -> None:
    if before >= MAX_NUMBER:
        raise Conflict(
            f"you have signed {before} {what}, which is the most; the last one stands",
            hint="pledges end when the charter's needs change: tapestry proposal new change-charter",
        )


def _amount(resource: str, text: str) -> str:
    """In its one form. Raises `InputError` with the way out."""
    if not is_resource(resource):
        raise InputError(f"{resource[:40]!r} is no resource", hint=f"one of: {RESOURCES}")
    try:
        given = amount(text)
    except ValueError as e:
        raise InputError(f"a pledge of {resource}: {e}", hint=example(resource)) from e
    if not fits(resource, given):
        raise InputError(f"{text} is no amount of {resource}", hint=example(resource))
    return str(given)


def _only_phase(charter: Charter) -> str:
    names = sorted(charter.phases or {})
    if len(names) != 1:
        raise InputError(
            f"the charter has {len(names)} phases" + (f": {', '.join(names)}" if names else ""),
            hint="say which one with --phase NAME" if names else "phases stand in the charter",
        )
    return names[0]


def _held(value: dict[str, Any], keys: dict[str, tuple[str, str]]) -> Held:
    """A pledge as the core shows it, which is what its member has signed, and so is every word about it."""
    said: Pledge = _signed(value["envelope"], Pledge, keys)
    words = value["words"]
    shown = {key: each for key, each in value.items() if key not in ("envelope", "words")}
    plain = [{key: each for key, each in word.items() if key != "envelope"} for word in words]
    found = Pledged.model_validate_json(canonical.encode({**shown, "words": plain}))
    if found.pledge != said.digest or any(getattr(found, name) != getattr(said, name) for name in SIGNED):
        raise IntegrityError(f"the core shows another pledge than {said.member} has signed")
    texts: dict[str, str] = {}
    for word, kept in zip(words, found.words, strict=True):
        signed: Confirmation = _signed(word["envelope"], Confirmation, keys)
        about = (signed.pledge, signed.member, signed.stands, signed.number)
        if about != (found.pledge, kept.member, kept.stands, kept.number):
            raise IntegrityError(f"the core shows another word than {signed.member} has signed")
        texts[signed.member] = signed.text
    return Held(pledge=found, text=said.text, words=texts)


def _check_sums(phase: dict[str, Any], held: list[Pledged]) -> None:
    """Rows are of these pledges and of words that stand, totals and the verdict of these rows. A row may be
    of nothing: whose member is suspended, and whose word counts, is not shown here."""
    for resource in phase["resources"]:
        of, rows = amount(str(resource["needed"])).of, resource["members"]
        sums = {"pledged": 0, "confirmed": 0}
        for row in rows:
            known = (phase["phase"], row["member"], resource["resource"])
            mine = [each for each in held if (each.phase, each.member, each.resource) == known]
            mine = [each for each in mine if amount(each.amount).of == of]
            sure = [each for each in mine if any(word.stands for word in each.words)]
            pledged, confirmed = (_base(str(row[column]), of) for column in sums)
            _same(phase, pledged in (_sum(mine), 0) and confirmed <= min(pledged, _sum(sure)))
            sums["pledged"] += pledged
            sums["confirmed"] += confirmed
        counts = sums["confirmed" if phase["counts"] == "confirmed" else "pledged"]
        _same(phase, all(_base(str(resource[column]), of) == whole for column, whole in sums.items()))
        _same(phase, resource["met"] == (counts >= amount(str(resource["needed"])).base))
        _same(phase, len({row["member"] for row in rows}) == len(rows))
    _same(phase, not phase["go"] or all(resource["met"] for resource in phase["resources"]))


def _same(phase: dict[str, Any], holds: bool) -> None:
    if not holds:
        raise IntegrityError(
            f"the core's table of phase {phase['phase']} is not of the pledges it shows",
            hint="look at the ledger: tapestry ledger verify",
        )


def _sum(pledges: list[Pledged]) -> int:
    return sum(amount(each.amount).base for each in pledges)


def _base(text: str, of: str) -> int:
    """Of a sum in its one form, which may be more than one pledge can be."""
    number, _, unit = text.partition(" ")
    return int(number) * UNITS.get(of, {of: 1})[unit]
