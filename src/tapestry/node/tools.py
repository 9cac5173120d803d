"""What all runs of a node share: made once by its agent."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from tapestry.node import airlock, settings, setup
from tapestry.node.home import Home
from tapestry.node.memory import Memory
from tapestry.node.outbox import Outbox
from tapestry.node.people import People
from tapestry.node.replica import Replica
from tapestry.node.submit import Submitter
from tapestry.node.sync import Library, Synchronizer
from tapestry.node.watch import Prefetcher
from tapestry.node.witness import Witness
from tapestry.replay.client import Replayer
from tapestry.storage.blobs import BlobStore
from tapestry.transport.client import CoreClient


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a session works with."""

    home: Home
    node: str
    member: str
    client: CoreClient
    store: BlobStore
    memory: Memory
    outbox: Outbox
    replayer: Replayer
    library: Library
    synchronizer: Synchronizer
    prefetcher: Prefetcher
    submitter: Submitter
    replica: Replica
    witness: Witness
    tell: Callable[[str], None]

    @classmethod
    def of(cls, home: Home, given: settings.NodeSettings, tell: Callable[[str], None]) -> Tools:
        """Those of a node. Raises `SettingsError` where it has not joined."""
        node, hosts = given.node, given.training.hosts
        reads_text = airlock.reads_text(home, given)
        joined, client = setup.load_consortium(home), setup.connect(home)
        store, memory, outbox = BlobStore.open(home.blobs), Memory(home), Outbox(home, client.traffic)
        replayer = Replayer(
            home.blobs, threads=min(2, os.cpu_count() or 1), log_path=home.logs / "replay.log"
        )
        library, replica = Library(client, store), Replica(home, client, joined)
        return cls(
            home=home,
            node=node.name,
            member=node.member,
            client=client,
            store=store,
            memory=memory,
            outbox=outbox,
            replayer=replayer,
            library=library,
            synchronizer=Synchronizer(
                *(home, library, replayer, joined.consortium, People(client), tell),
                member=node.member,
                merged=replica.merged,
            ),
            prefetcher=Prefetcher(client, library, node.name),
            submitter=Submitter(
                *(home, node, joined, client, store, memory, outbox, tell),
                library.meter,
                checkpoint=lambda: replica.checkpoint,
                core_keys=replica.core_keys,
                level=lambda trainer: airlock.level(trainer, reads_text, hosts),
            ),
            replica=replica,
            witness=Witness(home, node, joined, client, memory, outbox, replica),
            tell=tell,
        )

    def close(self) -> None:
        self.prefetcher.stop()
        self.replayer.close()
        self.client.close()
