"""What separates text from network on a node: which files the agent may touch, and how far that holds.

The trainer reads text and has no network; the agent has a network and reads no text; the gate between them
has no network and lets declared artifacts pass. The level reached is found by trying.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import tapestry
from tapestry.host.landlock import Rule
from tapestry.node.home import Home
from tapestry.node.settings import NodeSettings, folder_of

Level = Literal["none", "process", "netns", "site"]
"""`none`: the agent could read text. `process`: it cannot. `netns`: and the trainer has no network. `site`:
the trainer's hosts need a network among each other, and what lies around it is the site's."""

SYSTEM: Final = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/run/systemd/resolve", "/sys")
"""What a program needs to run, to find names and to trust authorities."""


def agent_files(home: Home, mirrors: Sequence[str] = ()) -> list[Rule]:
    """All that the agent and its replay worker touch: programs, and of the home what is theirs. Neither text
    nor what the trainer makes of it is among that, nor the logs of others.

    Args:
        home: the node's.
        mirrors: of the ledger, of which some may be folders.
    """
    root = Home(home.root.resolve())
    programs = {Path(sys.prefix), Path(sys.base_prefix), Path(tapestry.__file__).parent}
    programs |= {Path(each) for each in sys.path if each}
    rules = [Rule(path, "r") for path in (*map(Path, SYSTEM), *sorted(programs))]
    # User namespaces are set up through /proc.
    rules += [Rule(Path(each), "rw") for each in ("/proc", "/dev")]
    rules += [Rule(path, "r") for path in (root.settings, root.consortium, root.keys)]
    rules += [Rule(path, "r") for path in root.root.glob("ca-*.pem")]
    folders = (root.blobs, root.egress, root.state, root.ledger, root.jobs, root.root / "status")
    rules += [Rule(path, "rw") for path in (*folders, root.egress_messages)]
    near = (folder_of(root, each) for each in mirrors)
    rules += [Rule(path, "r") for path in near if path is not None]
    return [*rules, Rule(root.logs, "w")]


def prepare(home: Home) -> None:
    """Make what must be there before a rule can name it."""
    home.egress_messages.touch(mode=0o644)


def reads_text(home: Home, settings: NodeSettings, known: Iterable[Path] = ()) -> bool:
    """Whether this process could read the node's text, or what the trainer keeps of it, found by trying.

    Args:
        home: the node's.
        settings: its own.
        known: files that may lie in folders which this process cannot list.
    """
    return any(map(_readable, _places(home, settings))) or any(map(_opens, known))


def known_text(home: Home, settings: NodeSettings) -> list[Path]:
    """Its files, as far as this process sees them."""
    return [path for place in _places(home, settings) if place.exists() for path in _some(place)]


def _places(home: Home, settings: NodeSettings) -> tuple[Path, ...]:
    return settings.corpus_path(home), home.cache, home.outputs


def level(trainer: str | None, agent_reads: bool, hosts: int) -> Level:
    """Of a node.

    Args:
        trainer: what it found of itself (`netns`, `process`).
        agent_reads: whether the agent could read text.
        hosts: of the trainer.
    """
    if agent_reads:
        return "none"
    if hosts > 1:
        return "site"
    return "netns" if trainer == "netns" else "process"


def _readable(path: Path) -> bool:
    """Any file of it, or an empty folder that may be listed."""
    try:
        if any(map(_opens, _some(path))):
            return True
        return path.is_dir() and not any(path.iterdir()) and os.access(path, os.R_OK | os.X_OK)
    except OSError:  # refused, or there is nothing
        return False


def _opens(file: Path) -> bool:
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _some(path: Path) -> Iterator[Path]:
    """The files below a folder, or what itself is one. Raises `OSError` where the folder is shut."""
    if not path.is_dir():
        yield path
        return
    os.scandir(path).close()
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)
