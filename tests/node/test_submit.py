"""Handing in, where the core answers as it may when a connection of before is still open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.errors import Unreachable
from tapestry.node.held import WITHDRAWN, Held
from tapestry.protocol.messages import Contribution
from tapestry.transport.client import CoreClient
from tests.attacks.scene import Sending
from tests.core.support import EMPTY
from tests.transport.stub import CONSORTIUM, KEY, StubCore, served


@pytest.fixture
def sending(tmp_path: Path) -> Iterator[Sending]:
    with served(StubCore()) as stub, CoreClient(stub.url, CONSORTIUM, KEY, read_s=5) as client:
        yield Sending(tmp_path, stub, client)


def test_an_upload_that_another_connection_holds_is_tried_again(sending: Sending) -> None:
    sending.stub.faults = [lambda: (409, "conflict")] * 40
    with pytest.raises(Unreachable, match="as the test wants it"):
        sending.submitter.hand_in("run")
    assert sending.outcome == "signed", "not given up"
    sending.stub.faults = []
    sending.goes_on()


def test_an_upload_that_the_core_refuses_is_refused_for_good(sending: Sending) -> None:
    sending.stub.faults = [lambda: (413, "too-large")] * 40
    sending.submitter.hand_in("run")
    assert sending.outcome == "refused"


class Withdrawing(dict[str, bytes]):
    """What a core has taken; the text is withdrawn at the node once the first blob is there."""

    def __init__(self, sending: Sending, *, by: str) -> None:
        super().__init__()
        self._sending, self._by = sending, by

    def __setitem__(self, sha: str, data: bytes) -> None:
        super().__setitem__(sha, data)
        delta = self._sending.own.unverified(Contribution).delta
        which = {"manifest": ([EMPTY], []), "delta": ([], [delta]), "nothing": (["e" * 64], ["e" * 64])}
        Held(self._sending.home).add(*which[self._by])


@pytest.mark.parametrize("by", ["manifest", "delta", "nothing"])
def test_an_upload_ends_at_the_next_blob_once_the_text_is_withdrawn(tmp_path: Path, by: str) -> None:
    """The control is a withdrawal of other text: then all is sent."""
    with (
        served(StubCore()) as stub,
        CoreClient(stub.url, CONSORTIUM, KEY, read_s=5, parallel=1) as client,
    ):
        sending = Sending(tmp_path, stub, client)
        stub.blobs = Withdrawing(sending, by=by)
        sending.answers(sending.core_key)
        sending.submitter.hand_in("run")
        own = sending.memory["run"].contribution
        told = [
            path for method, path, _ in stub.requests if method == "POST" and path.endswith("contributions")
        ]
        assert own is not None
        if by == "nothing":
            assert (own.outcome, len(told)) == ("receipted", 1) and len(stub.blobs) > 1
        else:
            assert (own.outcome, own.reason) == ("refused", WITHDRAWN)
            assert len(stub.blobs) == 1 and not told
