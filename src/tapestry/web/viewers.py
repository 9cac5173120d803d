"""Who looks, and what that one may see. Nobody sees more here than the charter lets the role see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from tapestry.governance.charter import Charter, Public

Role = Literal["public", "member", "steward", "auditor", "core-operator"]
What = Literal[
    "charter", "members", "plans", "votes", "contributions", "scores", "ledger", "catalog", "releases"
]
"""The fields of the charter's `[public]`."""
UNCHARTERED: Final = Public()
"""Without a charter nobody has agreed to show more than its defaults."""


@dataclass(frozen=True)
class Viewer:
    """
    Args:
        roles: `public` alone, or those that the charter gives the member, `member` among them.
        member: who signed in; None where nobody did.
    """

    roles: frozenset[Role]
    member: str | None = None

    @property
    def insider(self) -> bool:
        """Of the consortium."""
        return self.roles != {"public"}

    def has(self, role: Role) -> bool:
        return role in self.roles

    def sees(self, what: What, charter: Charter | None) -> bool:
        """Whether something may be shown to this viewer."""
        return self.insider or is_public(what, charter)


ANYBODY: Final = Viewer(frozenset({"public"}))
INSIDER: Final = Viewer(frozenset({"public", "member"}))
"""Whoever looks where the dashboard is opened to members without signing in."""


def is_public(what: What, charter: Charter | None) -> bool:
    levels = charter.public if charter is not None else UNCHARTERED
    return bool(getattr(levels, what) == "public")
