"""Build the model that weights belong to, with the user's own function."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from repstat.errors import UsageError

Factory = str | Callable[[], Any]


def build(factory: Factory) -> Any:
    """Call a factory and return what it makes.

    Parameters
    ----------
    factory
        ``package.module:function``, imported as ``python -m`` would (the working directory comes first), or
        the function itself. It is called without arguments.

    Raises
    ------
    UsageError
        There is no such function, or it fails.
    """
    function = _imported(factory) if isinstance(factory, str) else factory
    try:
        with _working_directory_first():
            return function()
    except Exception as error:  # the user's own code may raise anything
        raise UsageError(
            what=f"the model factory {name_of(factory)} failed",
            why=f"{type(error).__name__}: {error}",
            fix="It is called without arguments and must return the model; call it in Python to find out",
        ) from error


def name_of(factory: Factory) -> str:
    """Return how a factory is called in messages and provenance."""
    if isinstance(factory, str):
        return factory
    return f"{getattr(factory, '__module__', '?')}:{getattr(factory, '__qualname__', repr(factory))}"


def _imported(spec: str) -> Callable[[], Any]:
    module_name, colon, attribute = spec.partition(":")
    if not colon or not module_name or not attribute:
        raise UsageError(
            what=f"cannot read the model factory {spec!r}",
            why="package.module:function was expected",
            fix="Write for example --model-factory train:build_model",
        )
    try:
        with _working_directory_first():
            module = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(
            what=f"cannot import the module of the model factory {spec!r}",
            why=f"{type(error).__name__}: {error}",
            fix="Start repstat where the module is, or install its package",
        ) from error
    function: Any = module
    for part in attribute.split("."):
        if not hasattr(function, part):
            close = get_close_matches(part, dir(function), n=1)
            raise UsageError(
                what=f"there is no model factory {spec!r}",
                why=f"{module_name} has no {attribute}",
                fix=f"Did you mean {close[0]}?" if close else "Check the spelling",
            )
        function = getattr(function, part)
    if not callable(function):
        raise UsageError(
            what=f"the model factory {spec!r} is not a function",
            why=f"found {type(function).__name__}",
            fix="Name a function that takes no arguments and returns the model",
        )
    made: Callable[[], Any] = function
    return made


@contextmanager
def _working_directory_first() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
