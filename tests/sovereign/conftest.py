"""An endpoint that serves a small model, for every test of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import openai

    from tapestry.sovereign.serve.engine import Engine
    from tests.sovereign.served import Running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.sovereign.served import TEMPLATE, make

    return make(tmp_path_factory.mktemp("models") / "small", template=TEMPLATE)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    import torch

    from tapestry.sovereign.serve.engine import Engine
    from tapestry.sovereign.serve.loading import load

    torch.set_num_threads(1)
    return Engine(load(folder, device="cpu"))


@pytest.fixture(scope="module")
def up(engine: Engine) -> Iterator[Running]:
    from tests.sovereign.served import running

    with running(engine) as one:
        yield one


@pytest.fixture
def client(up: Running) -> Iterator[openai.OpenAI]:
    from tests.sovereign.served import client_of

    with client_of(up) as one:
        yield one
