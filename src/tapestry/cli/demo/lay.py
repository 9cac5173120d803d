"""Lays out a demo's folder: certificate, core, members, text, nodes, plan.

Each step is done once, in any number of calls.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from tapestry.cli.demo import cards, defaults, private, texts, tls
from tapestry.cli.demo.places import Places
from tapestry.cli.demo.settings import DemoSettings

if TYPE_CHECKING:
    from tapestry.cli.demo.texts import MemberText
    from tapestry.core.service import Core

MEMBERS_FILE = "members.json"


def members(settings: DemoSettings, places: Places) -> list[MemberText]:
    """Who takes part and where their text lies; the standard library's is written at the first call.

    With --build the first member's is the part of it that goes into the run.
    """
    found = _members(settings, places)
    if settings.build:
        found[0] = private.part(found[0], places)
    return found


def _members(settings: DemoSettings, places: Places) -> list[MemberText]:
    if settings.corpora is not None:
        return texts.from_folder(settings.nodes, Path(settings.corpora))
    from tapestry.host import files

    listed = places.texts / MEMBERS_FILE
    if not listed.is_file():
        found = texts.from_standard_library(settings.nodes, places.texts)
        names = [{"name": m.name, "about": m.about} for m in found]
        files.write_atomic(listed, json.dumps(names).encode())
    names = json.loads(files.read_limited(listed, 1 << 16))
    return [
        texts.MemberText(name=n["name"], about=n["about"], folder=places.texts / n["name"]) for n in names
    ]


def core(places: Places, *, title: str = "Demo") -> None:
    """A core that speaks TLS on a free port of the loopback."""
    if (places.core / "core.toml").is_file():
        return
    from tapestry.core import operator
    from tapestry.core import settings as core_settings

    certificate = tls.make(places.tls)
    with socket.socket() as sock:
        sock.bind((tls.HOST, 0))
        port = sock.getsockname()[1]
    made = core_settings.make(
        host=tls.HOST,
        port=port,
        tls={
            "certificate": str(certificate.certificate.absolute()),
            "key": str(certificate.key.absolute()),
        },
    )
    operator.init(places.core, made, title=title)


def nodes(found: list[MemberText], places: Places, *, threads: int) -> None:
    """Each member with its root key, and one node with keys of its own."""
    from tapestry.node import setup
    from tapestry.node.member import member_init

    for member in found:
        if not (places.member(member.name) / "member.json").is_file():
            member_init(places.member(member.name), member.name)
        if not (places.node(member.name) / "node.toml").is_file():
            setup.init(
                places.node(member.name),
                places.member(member.name),
                member.name,
                member.folder,
                threads=threads,
                residency=cards.HERE,
            )


def join(found: list[MemberText], places: Places, url: str) -> None:
    """Invite and join those that have not; the core must be running."""
    from tapestry.core import operator
    from tapestry.node import setup

    for member in found:
        if not (places.node(member.name) / "consortium.json").is_file():
            setup.join(
                places.node(member.name),
                url,
                operator.invite(places.core, member.name),
                ca=places.tls / "ca.pem",
                member_dir=places.member(member.name),
            )


def plan(settings: DemoSettings, opened: Core, places: Places) -> None:
    """Make the initial base, record the plan, start the run."""
    from tapestry.core import operator
    from tapestry.protocol.plan import Plan

    if defaults.RUN not in opened.runs.names():
        from tapestry.training.model import initial_state

        tables = defaults.algorithm(
            settings.algorithm,
            total=settings.rounds,
            nodes=settings.nodes,
            steps=settings.steps,
            seed=settings.seed,
        )
        fragments = tables["streaming"].fragments
        model, layout, state, parameters = initial_state(
            defaults.RUN,
            defaults.model_config(),
            "byte",
            settings.seed,
            defaults.SHARD_BYTES,
            opened.store,
            fragments=fragments,
        )
        made = Plan(
            run=defaults.RUN,
            title=defaults.TITLE,
            model=model.digest,
            layout=layout.digest,
            initial_state=state.digest,
            parameters=parameters,
            **tables,
            witness=defaults.witness(settings.nodes),
            evaluation=defaults.evaluation(tables["rounds"].total),
            retention=defaults.retention(),
        )
        operator.plan(places.core, made)
    operator.start(places.core, defaults.RUN)
