"""Handing in, where the core answers as it may when a connection of before is still open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.errors import Unreachable
from tapestry.transport.client import CoreClient
from tests.attacks.scene import Sending
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
