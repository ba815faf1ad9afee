"""Call the function that builds a model, for files that hold its weights only."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repstat.errors import UsageError

_FIX = "Give --model-factory package.module:function, where function() returns the model"


def build(factory: str | Callable[[], Any]) -> Any:
    """Return what a factory makes: ``package.module:function``, or the function itself.

    The working directory counts as a place of modules, as it does for ``python -m``.

    Raises
    ------
    UsageError
        There is no such module or function, or it fails.
    """
    function = _load(factory) if isinstance(factory, str) else factory
    try:
        return function()
    except Exception as error:  # a user's function may raise anything
        raise UsageError(
            what=f"the model factory {name_of(factory)} fails",
            why=f"{type(error).__name__}: {error}",
            fix="It is called without arguments; try it in Python alone",
        ) from error


def name_of(factory: str | Callable[[], Any]) -> str:
    """Return how a factory is called in messages and provenance."""
    if isinstance(factory, str):
        return factory
    return f"{getattr(factory, '__module__', '?')}:{getattr(factory, '__qualname__', repr(factory))}"


def _load(text: str) -> Callable[[], Any]:
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise UsageError(
            what=f"the model factory {text!r} is not of the form package.module:function", fix=_FIX
        )
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise UsageError(what=f"there is no {name!r} in the module {module!r}", fix=_FIX) from None
    except Exception as error:  # importing a user's module may raise anything
        raise UsageError(
            what=f"cannot import the model factory {text!r}",
            why=f"{type(error).__name__}: {error}",
            fix="Modules are looked for in the working directory and where Python looks",
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise UsageError(what=f"the model factory {text!r} is not a function", fix=_FIX)
    made: Callable[[], Any] = found
    return made
