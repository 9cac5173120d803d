"""What a trainer may say of its machine: the keys that `training.machine` makes, each in a form of its own.

These are the only words a trainer writes into a result. Of a trainer on this machine the gate knows what they
must be; of one on other hosts it knows their form, and no more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final, Self

from tapestry.errors import ArtifactError
from tapestry.host import machine

CAPABILITIES: Final = (
    "DEFAULT", "NO AVX", "AVX2", "AVX512", "AMX", "SVE", "SVE128", "SVE256", "VSX", "Z VECTOR", "ZVECTOR",
)  # fmt: skip
"""What torch calls the vector instructions that it uses."""
_WORDS: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_.+:/()-]{0,15}(?: [A-Za-z0-9(][A-Za-z0-9_.+:/()-]{0,15}){0,9}"
)
_RELEASE: Final = (
    r"\d{1,2}\.\d{1,2}\.\d{1,2}(?:(?:a|b|rc)\d{1,2}|\.post\d|\.dev\d{8})?"
    r"(?:\+(?:cpu|xpu|cu\d{2,3}|rocm\d(?:\.\d{1,2}){1,2}|git[0-9a-f]{7,10}))?"
)
_SYSTEM: Final = r"(?:Linux|Darwin|FreeBSD) (?:x86_64|amd64|aarch64|arm64|ppc64le|riscv64|s390x)"
_ACCELERATOR: Final = r"(?:NVIDIA|Tesla|Quadro|GeForce|GRID|AMD|Radeon|Instinct)(?: [A-Za-z0-9.-]{1,16}){1,5}"
_COUNT: Final = r"[1-9][0-9]{0,6}"

Form = Callable[[str], object]


def _pattern(text: str) -> Form:
    return re.compile(text).fullmatch


class Forms:
    """Which words each key may have."""

    def __init__(self, forms: Mapping[str, Form], *, cuda: bool) -> None:
        self._forms = {
            "threads": _pattern(_COUNT),
            "ranks": _pattern(_COUNT),
            "precision": {"fp32", "bf16"}.__contains__,
            "isolation": {"netns", "process"}.__contains__,
            "inner": {"kept", "reset"}.__contains__,
            **({"accelerator": _pattern(_ACCELERATOR)} if cuda else {}),
            **forms,
        }

    @classmethod
    def here(cls, *, cuda: bool = False) -> Self:
        """Of a trainer on this machine: processor, system and torch are what they are. Without `cuda` it has
        no accelerator to name."""
        return cls(
            {
                "cpu": _processors().__contains__,
                "system": {machine.clean(machine.system())}.__contains__,
                "torch": {machine.clean(machine.torch_version())}.__contains__,
            },
            cuda=cuda,
        )

    @classmethod
    def elsewhere(cls, *, cuda: bool = True) -> Self:
        """Of a trainer on hosts that the gate does not see."""
        forms = {"cpu": _processor_elsewhere, "system": _pattern(_SYSTEM), "torch": _pattern(_RELEASE)}
        return cls(forms, cuda=cuda)

    def check(self, environment: Mapping[str, str]) -> None:
        """Raise `ArtifactError`, which names the key, unless all of it is as it may be. A key that may not be
        is not named: it could be a text itself."""
        for key, value in environment.items():
            form = self._forms.get(key)
            if form is None:
                raise ArtifactError(
                    f"the environment has a key that is none of {', '.join(sorted(self._forms))}"
                )
            if not form(value):
                raise ArtifactError(
                    f"environment.{key} is not what the gate finds on this machine, or not of its form"
                )


@cache
def _processors() -> frozenset[str]:
    model = machine.cpu_model()
    return frozenset(machine.clean(f"{model} {capability}") for capability in CAPABILITIES)


def _processor_elsewhere(text: str) -> bool:
    """A few short words, the last of which say the vector instructions; a long name may cut those off."""
    named = len(text) >= machine.MAX_WORDS or text.endswith(tuple(f" {each}" for each in CAPABILITIES))
    return named and _WORDS.fullmatch(text) is not None
