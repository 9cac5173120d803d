"""Checks of a node's home, and of its way to the core."""

from __future__ import annotations

import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tapestry import __version__
from tapestry.cli.checkup.finding import Finding, answered, fail, ok, warn
from tapestry.cli.checkup.secrets import check_end, check_modes
from tapestry.cli.checkup.watched import of_metrics
from tapestry.cli.failures import OWNER_HINT
from tapestry.errors import AuthError, TapestryError
from tapestry.protocol.clock import parse_time

if TYPE_CHECKING:
    from tapestry.node.home import Home
    from tapestry.node.settings import NodeSettings
    from tapestry.protocol.views import Hello
    from tapestry.transport.client import CoreClient

REACH_S: Final = 5.0
SKEW_S: Final = 60.0
"""The core's clock counts, whatever this machine's is; only certificates of TLS are judged by the latter."""
COMMANDS: Final = {"slurm": "sbatch", "submitit": "sbatch", "kubernetes": "kubectl"}
ROTATE: Final = "tapestry member key rotate {home} --member DIR"


def of_node(root: Path, rounds: int) -> Iterator[Finding]:
    """All of one node; without its settings nothing else can be looked at."""
    from tapestry.node import settings
    from tapestry.node.home import Home

    home = Home(root)
    try:
        given = settings.load(home)
    except TapestryError as error:
        yield fail("node settings", error.message, error.hint or "correct node.toml")
        return
    except OSError as error:
        yield fail("node settings", f"{error.filename}: {error.strerror}", OWNER_HINT)
        return
    yield ok("node settings", str(home.settings))
    yield from check_modes(home.keys, ("*.key",), "node's keys")
    yield from answered("text", lambda: _text(home, given), "correct training.corpus in node.toml")
    yield from answered("device", lambda: _device(given), "correct training.device in node.toml")
    yield from of_metrics(given.metrics, "node.toml")
    now: list[float] = []
    yield from answered("core", lambda: _core(home, now), "join a consortium: tapestry node join")
    at = now[0] if now else time.time()
    for role in ("node", "witness"):
        yield from answered(f"{role} key", partial(_key, home, role, at), ROTATE.format(home=root))
    yield from answered(
        "room for rounds", lambda: _room(home, rounds), "let the node run: it mends lost blobs"
    )
    yield from _running(home)


def _text(home: Home, given: NodeSettings) -> Iterator[Finding]:
    """Only names are looked at. Raises `OSError`."""
    corpus = given.corpus_path(home)
    names = [path.name for path in corpus.iterdir()]
    lacking = [kind for kind in ("train", "valid") if not any(name.startswith(kind) for name in names)]
    if lacking:
        found = f"{corpus} has no {' and no '.join(f'{kind}.*' for kind in lacking)}"
        yield fail("text", found, "put text there: see docs/guides/corpora.md")
    elif given.training.residency is None:
        found = f"{corpus}, and no residency: no card permits to train on it"
        yield fail("text", found, "set residency under [training] in node.toml, as in CH")
    else:
        yield ok("text", str(corpus))


def _device(given: NodeSettings) -> Iterator[Finding]:
    training = given.training
    command = COMMANDS.get(training.launcher)
    if command is not None:
        if shutil.which(command) is None:
            mend = f"run the node where {command} is, or set another launcher in node.toml"
            yield fail(
                "launcher", f"{command}, which {training.launcher} needs, is not on this machine", mend
            )
        else:
            yield ok("launcher", f"{training.launcher} by {command}; devices are those of its hosts")
        return
    import torch

    if training.device != "cuda":
        yield ok("device", f"{training.device}, {training.threads} threads")
    elif not torch.cuda.is_available():
        mend = 'install the driver and a build of torch with CUDA, or set device = "cpu"'
        yield fail("device", "cuda is asked for, and torch finds none", mend)
    elif torch.cuda.device_count() < training.processes:
        found = f"{training.processes} processes, and {torch.cuda.device_count()} accelerators"
        yield fail("device", found, "lower processes in node.toml, or set CUDA_VISIBLE_DEVICES")
    else:
        yield ok("device", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")


def _core(home: Home, now: list[float]) -> Iterator[Finding]:
    """Whether it can be reached, is the right one, and knows this node; its time goes into `now`. Raises
    `TapestryError`."""
    from tapestry.node import setup

    joined = setup.load_consortium(home)
    with setup.connect(home) as client:
        client.connection.connect_s = client.connection.read_s = REACH_S
        hello = client.hello()
        ours = time.time()
        now.append(parse_time(hello.time).timestamp())
        yield ok("core", f"{joined.core_url} answers, consortium {hello.consortium[:12]}")
        yield _clock(ours, now[0])
        yield from _formats(hello)
        if joined.core_url.startswith("https:"):
            yield from answered(
                "core's certificate",
                lambda: _certificate(joined.core_url, None if joined.ca is None else home.root / joined.ca),
                "tell the core's operator",
            )
        yield from _known(client, home)


def _clock(ours: float, theirs: float) -> Finding:
    apart = ours - theirs
    found = f"this machine's is {abs(apart):,.1f} s {'ahead of' if apart > 0 else 'behind'} the core's"
    if abs(apart) > SKEW_S:
        return warn("clock", found, "set both by NTP; see which is wrong: timedatectl status")
    return ok("clock", found)


def _formats(hello: Hello) -> Iterator[Finding]:
    from tapestry.protocol import artifact, layout, messages, plan, views

    spoken = (
        artifact.Artifact, artifact.State, layout.Layout, plan.Plan, views.RunView, views.RoundRecord,
        messages.Attestation, messages.Contribution, messages.Enrolment, messages.Score,
    )  # fmt: skip
    odd = [
        k.format_name() for k in spoken if k.format_version() not in hello.formats.get(k.format_name(), ())
    ]
    if odd:
        found = f"the core, of release {hello.release}, does not speak our {', '.join(odd)}"
        yield fail(
            "release", found, f"install release {hello.release} here, or have the core brought to ours"
        )
    elif hello.release != __version__:
        found = (
            f"the core is of release {hello.release}, this node of {__version__}; they speak the same formats"
        )
        yield warn("release", found, "bring both to the same release at the next occasion")
    else:
        yield ok("release", f"both of {__version__}")


def _certificate(url: str, ca: Path | None) -> Iterator[Finding]:
    parts = urlsplit(url)
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    where = (parts.hostname or "", parts.port or 443)
    with (
        socket.create_connection(where, REACH_S) as plain,
        context.wrap_socket(plain, server_hostname=parts.hostname) as secure,
    ):
        said = secure.getpeercert() or {}
    begins, ends = (ssl.cert_time_to_seconds(str(said[key])) for key in ("notBefore", "notAfter"))
    mend = "have the core's operator renew it"
    yield check_end("core's certificate", "the core's certificate", begins, ends, time.time(), mend)


def _known(client: CoreClient, home: Home) -> Iterator[Finding]:
    try:
        client.runs()
    except AuthError as error:
        yield fail(
            "admission",
            f"the core refuses this node: {error.message}",
            error.hint or ROTATE.format(home=home.root),
        )
    else:
        yield ok("admission", "the core knows this node's key")


def _key(home: Home, role: str, now: float) -> Iterator[Finding]:
    """Raises `TapestryError`."""
    from tapestry.node import keys, setup
    from tapestry.protocol.messages import KeyCertificate

    check, rotate = f"{role} key", ROTATE.format(home=home.root)
    key = keys.load(home, "node" if role == "node" else "witness")
    if home.consortium.exists():
        said = key.statement(setup.load_consortium(home).root_key)
    else:
        said = key.certificate.unverified(KeyCertificate)
    if said.public_key != key.pair.public_key:
        yield fail(check, "the key is not the one that its certificate names", rotate)
        return
    begins, ends = (parse_time(each).timestamp() for each in (said.not_before, said.expires))
    yield check_end(check, "its certificate", begins, ends, now, rotate)


def _room(home: Home, rounds: int) -> Iterator[Finding]:
    """Raises `TapestryError`."""
    from tapestry.audit.course import Course
    from tapestry.cli import nodehome
    from tapestry.cli.checkup.room import check_room
    from tapestry.node.kept import Kept
    from tapestry.storage.blobs import BlobStore

    courses = [Course(run) for run in sorted(nodehome.memory(home.root).runs)]
    if courses:
        for line in Kept.of(home).lines():
            for course in courses:
                course.take(line)
    states = [course.state for course in courses if course.state is not None]
    yield from check_room(home.root, states, BlobStore.open(home.blobs), rounds, at_core=False)


def _running(home: Home) -> Iterator[Finding]:
    from tapestry.node.status import node_status

    said = node_status(home.root)
    if not said["running"]:
        yield warn("node", "does not run", f"start it with: tapestry node run {home.root}")
    elif said["trouble"]:
        yield fail("node", str(said["trouble"]), str(said["hint"] or "see logs/agent.log of the node"))
    else:
        yield ok("node", "runs")
