"""What a member pledges and confirms, signed with its vote key, and the pledges of all as they signed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tapestry.errors import Conflict, FormatError, InputError, IntegrityError, NotFound
from tapestry.governance.charter import Charter
from tapestry.governance.pledge import Confirmation, Pledge, Pledged, key_of
from tapestry.governance.pledging import phase_of
from tapestry.governance.resources import RESOURCES, Amount, amount, example, fits, is_resource
from tapestry.identity.envelope import sign
from tapestry.node.council import Council, _signed
from tapestry.protocol import canonical

LEAST_DIGITS: Final = 6
TRIES: Final = 5


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
        said = Pledge(
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
        said = said.model_copy(update={"number": before + 1})
        answer = dict(self.client.pledge(sign(said, self._pair).to_bytes()))
        return {**answer, **said.model_dump(mode="json", exclude={"format", "version", "consortium"})}

    def confirm(self, given: str, *, stands: bool, why: str) -> dict[str, Any]:
        """Say whether another's pledge is real. `given`: its name, or the first digits of it."""
        held = self._named(given)
        last = held.word(self.name)
        said = Confirmation(
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
    fields = {name: getattr(said, name) for name in ("member", "phase", "resource", "amount", "dataset")}
    if (
        found.pledge != said.digest
        or fields.items() > found.model_dump().items()
        or found.key != key_of(said)
    ):
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
    for resource in phase["resources"]:
        of = amount(str(resource["needed"])).of
        for row in resource["members"]:
            known = (phase["phase"], row["member"], resource["resource"])
            mine = [each for each in held if (each.phase, each.member, each.resource) == known]
            given = [found for each in mine if (found := amount(each.amount)).of == of]
            whole = Amount(of=of, base=sum(each.base for each in given))
            nothing = Amount(of=of, base=0)  # of who is away
            if row["pledged"] not in (str(whole), str(nothing)):
                raise IntegrityError(
                    f"the core's table of phase {phase['phase']} is not of the pledges it shows",
                    hint="look at the ledger: tapestry ledger verify",
                )
