"""Switches single defences off, for the positive controls."""

from __future__ import annotations
import __future__

import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

import pytest

SOURCE = "__source_with_switches__"
_switches = count(1)


class Switches:
    """Of one test: which defences it has switched off, and that each was then really asked."""

    def __init__(self) -> None:
        self.switched: list[str] = []

    @contextmanager
    def off(self, target: str, instead: Any = lambda *_, **__: None) -> Iterator[None]:
        """`instead` in the place of a function, method or constant, named by its dotted path."""
        asked: list[None] = []

        def replacement(*args: Any, **options: Any) -> Any:
            asked.append(None)
            return instead(*args, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, replacement if callable(instead) else instead)
            yield
        assert asked or not callable(instead), f"{target} was never asked: the control shows nothing"
        self.switched.append(target)

    @contextmanager
    def check_off(
        self, target: str, check: str, instead: Callable[..., Any] = lambda *_: False, *, given: str = ""
    ) -> Iterator[None]:
        """One condition inside a function is False, and all else of it as it is.

        Args:
            target: dotted path of the function, where its caller finds it.
            check: text of the condition, with or without its `if`; it stands there exactly once.
            instead: gives the condition's value.
            given: arguments that `instead` gets, as they are written in the function.
        """
        owner, name = _resolve(target)
        found = inspect.getattr_static(owner, name)
        function = _plain(found)
        source = getattr(function, SOURCE, None) or textwrap.dedent(inspect.getsource(function))
        assert source.count(check) == 1, f"{target} holds {source.count(check)} times: {check}"
        asked: list[None] = []

        def switched(*args: Any) -> Any:
            asked.append(None)
            return instead(*args)

        switch = f"__switch_{next(_switches)}__"
        keyword = "if " if check.startswith("if ") else ""
        changed = source.replace(check, f"{keyword}{switch}({given})")
        flags = __future__.annotations.compiler_flag
        code = compile(changed, f"<{target}>", "exec", flags, True)
        made: dict[str, Any] = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(function.__globals__, switch, switched)
            exec(code, function.__globals__, made)
            # In place, so that whoever has imported or bound the function has it too.
            patch.setattr(function, "__code__", _plain(made[function.__name__]).__code__)
            patch.setattr(function, SOURCE, changed, raising=False)
            yield
        assert asked, f"{check} in {target} was never asked: the control shows nothing"
        self.switched.append(target)

    @contextmanager
    def all_off(self, *specs: tuple[Any, ...]) -> Iterator[None]:
        """Several at once: the arguments of `check_off`, or a target, None and what stands in its place."""
        with ExitStack() as stack:
            for target, check, *more in specs:
                if check is None:
                    stack.enter_context(self.off(target, *more))
                elif len(more) == 2:
                    stack.enter_context(self.check_off(target, check, more[0], given=more[1]))
                else:
                    stack.enter_context(self.check_off(target, check, *more))
            yield


def _plain(found: Any) -> Any:
    """The function itself, inside its decorators."""
    return inspect.unwrap(found.__func__ if isinstance(found, staticmethod | classmethod) else found)


def _resolve(target: str) -> tuple[Any, str]:
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            owner: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:-1]:
            owner = getattr(owner, part)
        return owner, parts[-1]
    raise AssertionError(target)
