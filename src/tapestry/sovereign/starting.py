"""What `tapestry build constitution init` writes; a test holds examples/constitution.toml against it."""

from __future__ import annotations

from importlib import resources
from typing import Final

NAME: Final = "starting.toml"


def starting() -> bytes:
    """A constitution to begin with."""
    return resources.files("tapestry.sovereign").joinpath(NAME).read_bytes()
