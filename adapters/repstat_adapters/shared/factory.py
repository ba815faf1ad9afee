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
    module_name, attribute = _names(spec)
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


def _names(spec: str) -> tuple[str, str]:
    """Return the names of the module and of what is in it."""
    module, colon, attribute = spec.partition(":")
    file = Path(module)
    why, fix = "", "Write for example --model-factory train:build_model"
    if file.suffix == ".py" or len(file.parts) > 1 or "\\" in module:
        start = "" if file.parent == Path() else f", and start repstat in {file.parent}"
        why = f", found the file {module}"
        fix = f"A module is named without its folder and .py: write {file.stem}:{attribute or 'build'}{start}"
    elif not all((colon, *module.split("."))):
        why = f", found the module {module!r}" if colon else ""
    elif not all(part.isidentifier() for part in attribute.split(".")):
        why = f", and {attribute!r} is no name of a function"
    else:
        return module, attribute
    raise UsageError(
        what=f"cannot read the model factory {spec!r}",
        why=f"package.module:function was expected{why}",
        fix=fix,
    )


@contextmanager
def _working_directory_first() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
