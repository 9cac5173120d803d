"""The consortium of a rehearsal: five members with a node each, a core, and a way to look at all of it.

Core and nodes are the commands a person would type. What a play does to them, an operator, an owner, an
accident or an attacker could do.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tapestry.cli.demo import cards, lay, texts
from tapestry.cli.demo.children import Children, serving_url
from tapestry.cli.demo.places import Places
from tapestry.cli.rehearsal import defaults
from tapestry.cli.rehearsal.defaults import RUN, Size
from tapestry.cli.rehearsal.fault import NotSeen
from tapestry.cli.rehearsal.link import Link
from tapestry.host import processes
from tapestry.ledger.entries import CONSORTIUM, Entry

if TYPE_CHECKING:
    from tapestry.cli.demo.texts import MemberText
    from tapestry.core.service import Core
    from tapestry.node.home import Home
    from tapestry.rounds.state import RunState

T = TypeVar("T")
POLL_S: Final = 0.05
CORE: Final = "core"
MAX_BATCH_BYTES: Final = 32 << 20
LINKED: Final = 2
"""So many members reach the core by a link that can be cut."""


@dataclass(frozen=True)
class Said:
    """What a command ended with."""

    code: int
    value: dict[str, Any]
    stderr: str


class Scene:
    """One rehearsal in the folder `places.out`; `opened` for as long as its context is."""

    def __init__(self, places: Places, size: Size, *, thorough: bool) -> None:
        self.places, self.size, self.thorough = places, size, thorough
        self.began = time.monotonic()
        self.children = Children(places.logs)
        self.links: dict[str, Link] = {}
        self.members: list[MemberText] = []
        self.merges: list[tuple[float, int]] = [(0.0, 0)]
        self.gone: set[str] = set()
        """Members whose nodes have stopped for good."""
        self._entries: list[Entry] = []
        self.opened: Core

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @contextmanager
    def set_up(self) -> Iterator[Scene]:
        """Lay out, start, join; when it ends nothing is left running."""
        with ExitStack() as stack:
            stack.callback(self.children.stop)
            self._lay_out()
            from tapestry.core.service import Core

            self.opened = stack.enter_context(Core.open(self.places.core))
            self._plan()
            self.start_core()
            self._join(stack)
            for member in self.members:
                self.start_node(member.name)
            yield self

    def _lay_out(self) -> None:
        self.members = texts.from_standard_library(
            defaults.MEMBERS, self.places.texts, most_bytes=self.size.text_bytes
        )
        lay.core(self.places, title=defaults.TITLE)
        lay.nodes(self.members, self.places, threads=1)
        cards.make(self.members, self.places, own_text=False)

    def _plan(self) -> None:
        from tapestry.core import operator
        from tapestry.protocol.plan import Plan
        from tapestry.training.model import initial_state

        model, layout, state, parameters = initial_state(
            RUN, self.size.model, "byte", defaults.SEED, 1 << 20, self.opened.store
        )
        plan = Plan(
            run=RUN,
            title=defaults.TITLE,
            model=model.digest,
            layout=layout.digest,
            initial_state=state.digest,
            parameters=parameters,
            rounds=defaults.rounds(),
            inner=self.size.inner,
            merge=defaults.merge(),
            evaluation=defaults.evaluation(),
            witness=defaults.witness(),
        )
        operator.plan(self.places.core, plan)
        operator.start(self.places.core, RUN)

    def _join(self, stack: ExitStack) -> None:
        url = self.core_url()
        for number, member in enumerate(self.members):
            at = url
            if number < LINKED:
                link = stack.enter_context(Link(port_of(url)))
                self.links[member.name] = link
                at = f"{url.rpartition(':')[0]}:{link.port}"
            lay.join([member], self.places, at)

    # -- processes ------------------------------------------------------------------------------

    def start_core(self) -> None:
        self.children.start(CORE, "core", "serve", str(self.places.core))
        serving_url(self.places.core, self.children)

    def core_url(self) -> str:
        return serving_url(self.places.core, self.children)

    def start_node(self, name: str) -> None:
        self.children.start(name, "node", "run", str(self.places.node(name)), "--once")

    def command(self, *words: object, offline: bool = False) -> Said:
        """What a person would type, with `--json`; `offline`: without any network."""
        child = processes.spawn(
            "command",
            [sys.executable, "-P", "-m", "tapestry.cli.main", *map(str, words), "--json"],
            log_path=(log := self.places.logs / "commands.log"),
            env={"NO_COLOR": "1"},
            isolate_network=offline,
            pipes=True,
        )
        began = log.stat().st_size
        assert child.stdin is not None and child.stdout is not None  # noqa: S101 - spawned with pipes
        child.stdin.close()
        out = child.stdout.read()
        code = child.wait()
        child.stdout.close()
        told = log.read_bytes()[began:].decode("utf-8", "replace")
        value = json.loads(out) if out.strip() else {}
        return Said(code, value if isinstance(value, dict) else {}, told)

    # -- looking --------------------------------------------------------------------------------

    def home(self, name: str) -> Home:
        from tapestry.node.home import Home

        return Home(self.places.node(name))

    def state(self) -> RunState:
        """The run, as the core has it on disk."""
        state = self.opened.runs.standing(RUN).state
        if state.merges != self.merges[-1][1]:
            self.merges.append((round(self.seconds, 2), state.merges))
        return state

    def entries(self) -> list[Entry]:
        """The whole ledger by now."""
        while True:
            lines, head = self.opened.journal.entries(
                len(self._entries), limit=1000, max_bytes=MAX_BATCH_BYTES
            )
            self._entries += [Entry.from_bytes(line) for line in lines]
            if len(self._entries) >= head:
                return self._entries

    def find(self, type_: str, *, after: int = 0, **fields: object) -> Entry | None:
        """The first entry of the run, or of the consortium, behind a position with these fields."""
        for entry in self.entries()[after:]:
            known = entry.scope in (RUN, CONSORTIUM) and entry.type == type_
            if known and all(entry.body.get(name) == value for name, value in fields.items()):
                return entry
        return None

    def relative(self, path: Path) -> str:
        """As a report names it."""
        return path.relative_to(self.places.out).as_posix()

    def rounds_since(self, merges: int) -> int:
        return self.state().merges - merges

    # -- waiting --------------------------------------------------------------------------------

    def within(self, seconds: float, look: Callable[[], T | None]) -> T | None:
        """What `look` finds, once it does; None where it does not in time. Raises what a child ended with."""
        deadline = time.monotonic() + seconds
        while True:
            if (found := look()) is not None and found is not False:
                return found
            if time.monotonic() > deadline:
                return None
            self.children.check()
            self.state()
            time.sleep(POLL_S)

    def until(self, what: str, look: Callable[[], T | None], seconds: float = defaults.WAIT_S) -> T:
        """The same, raising `NotSeen` where it does not come."""
        found = self.within(seconds, look)
        if found is None:
            raise NotSeen(f"{what} did not come within {seconds:.0f} s")
        return found

    def until_merges(self, more: int) -> int:
        """So many more merges; how many there are then."""
        wanted = self.state().merges + more
        self.until(f"merge {wanted}", lambda: self.state().merges >= wanted)
        return wanted

    def until_training(self) -> int:
        """A round in which nobody has handed in anything yet; its number."""

        def fresh() -> int | None:
            at = self.state().current
            return at.round if at is not None and at.phase == "training" and not at.submissions else None

        return self.until("a new round", fresh)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])
