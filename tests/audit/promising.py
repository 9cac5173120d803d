"""Members who pledge and confirm, on a core without a server."""

from __future__ import annotations

from typing import Any, Final

from tapestry.core.pledges import Pledges
from tapestry.governance.pledge import Confirmation, Pledge, Pledged, key_of
from tapestry.governance.thresholds import Reckoning, reckon
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keys import KeyPair
from tapestry.protocol.clock import time_text
from tests.audit.council import Council

PILOT: Final[dict[str, Any]] = {
    "needs": {"compute": "100 accelerator-hours", "funds": "5000 EUR"},
    "members": 2,
    "runs": ("run",),
    "override": "at least 3/4",
}
KINDS: Final[dict[str, Any]] = {"change-charter": {"of": "all", "approval": "at least 3/4"}}


class Promising(Council):
    """All members but the last are stewards; there is a phase `pilot`, to which `run` belongs."""

    @property
    def pledges(self) -> Pledges:
        return Pledges(self.core)

    def founded(self, **phases: dict[str, Any]) -> None:
        """Has a charter with these phases."""
        self.adopt(phases={"pilot": PILOT, **phases})

    def charter(self, *names: str, **tables: Any) -> Any:
        seats = {name: {"seats": 1, "roles": ("member", "steward")} for name in names or self.nodes}
        seats[[*seats][-1]] = {"seats": 1}
        return super().charter(*names, **{"members": seats, "kinds": KINDS, **tables})

    def said(
        self, name: str, resource: str, amount: str, *, key: KeyPair | None = None, **fields: Any
    ) -> Envelope:
        """A pledge as it is signed."""
        governance = self.votes.assembly().governance
        assert governance.charter is not None
        known = {
            "consortium": self.consortium,
            "member": name,
            "charter": governance.charter.digest,
            "phase": "pilot",
            "resource": resource,
            "amount": amount,
            "dataset": None,
            "number": 1,
            "text": "",
        }
        made = Pledge(**(known | fields))
        if "number" not in fields:
            held = governance.pledges.get(key_of(made))
            made = made.model_copy(update={"number": 1 if held is None else held.number + 1})
        return sign(made, key or self.nodes[name].vote)

    def pledge(self, name: str, resource: str, amount: str, **fields: Any) -> str:
        """The pledge's digest."""
        self.now += 10
        return self.pledges.pledge(self.said(name, resource, amount, **fields)).pledge

    def word(self, name: str, pledge: str, *, key: KeyPair | None = None, **fields: Any) -> Envelope:
        """A confirmation as it is signed."""
        held = self.held(pledge)
        last = held.word(name) if held is not None else None
        known = {
            "consortium": self.consortium,
            "member": name,
            "pledge": pledge,
            "number": 1 if last is None else last.number + 1,
            "stands": True,
            "text": "",
        }
        return sign(Confirmation(**(known | fields)), key or self.nodes[name].vote)

    def confirm(self, name: str, pledge: str, **fields: Any) -> None:
        self.now += 10
        self.pledges.confirm(self.word(name, pledge, **fields))

    def held(self, pledge: str) -> Pledged | None:
        every = self.votes.assembly().governance.pledges.values()
        return next((each for each in every if each.pledge == pledge), None)

    def brought(self, name: str, resource: str, amount: str, by: str, **fields: Any) -> str:
        """Pledged by one and confirmed by another."""
        pledge = self.pledge(name, resource, amount, **fields)
        self.confirm(by, pledge)
        return pledge

    def reckoned(self, phase: str = "pilot") -> Reckoning:
        return reckon(self.votes.assembly(), phase, time_text(self.now))
