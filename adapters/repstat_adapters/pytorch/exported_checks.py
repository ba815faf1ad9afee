"""Whether an archive of ``torch.export`` can be loaded without running code that comes with it.

PyTorch looks up ops by dotted names, evaluates expressions of sizes and guards as Python, and unpickles some
tensors and the sample inputs. Everything in the archive must therefore be of forms known to be harmless.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

_OPS = re.compile(r"torch\.ops\.(aten|prims|torchvision)\.(?!save\b|from_file\b)\w+(\.\w+)?")
_ARITHMETIC = re.compile(
    r"_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt|pow)|torch\.(_?sym_\w+)"
)
_WRAPPERS = re.compile(r"torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond)")
_FUNCTIONS = re.compile(
    "Symbol|Integer|Rational|Float|Mul|Add|Pow|Mod|Max|Min|Abs|Piecewise|FloorDiv|CleanDiv|PythonMod|CeilDiv|"
    "CeilToInt|FloorToInt|TruncToInt|IntTrueDiv|FloatTrueDiv|ToFloat|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|"
    "StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|And|Or|Not"
)
_NAMES = re.compile(r"L|args|kwargs|self|math|[su]\d+|inf|nan|oo|int_oo")
_METHODS = frozenset({"size", "stride", "storage_offset", "dim"})
_NODES = (
    ast.Expression, ast.Load, ast.Constant, ast.Tuple, ast.List, ast.UnaryOp, ast.UAdd, ast.USub, ast.Not,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BoolOp, ast.And,
    ast.Or, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot, ast.keyword,
    ast.Subscript, ast.Name, ast.Attribute, ast.Call,
)  # fmt: skip
_LARGEST_POWER = 64


def first_danger(path: Path) -> str:
    """Return what in the archive could run code, or nothing."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            data = archive.read(name) if name.endswith((".json", ".pt")) else b""
            if name.endswith(".json"):
                danger = next(_dangers(_parsed(data)), "")
            elif name.endswith(".pt"):
                danger = _pickled(data, name)
            else:
                danger = f"the compiled code {name}" if name.endswith((".so", ".cubin", ".py")) else ""
            if "/constants/" in name and "obj" in name.rpartition("/")[2]:
                danger = f"the pickled object {name}"
            if danger:
                return danger
    return ""


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return {"target": "a file that is not JSON"}


def _pickled(data: bytes, name: str) -> str:
    try:
        torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged pickle may raise anything
        return f"{name} is not a plain pickle of tensors ({type(error).__name__})"
    return ""


def _dangers(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            yield from _dangers(inner, inner_key)
    elif isinstance(value, list):
        for inner in value:
            yield from _dangers(inner, key)
    elif value is not None and (word := _danger(key, value)):
        yield word


def _danger(key: str, value: Any) -> str:
    if key == "use_pickle":
        return "a pickled tensor" if value else ""
    if not isinstance(value, str):
        return ""
    if key == "target" and not any(p.fullmatch(value) for p in (_OPS, _ARITHMETIC, _WRAPPERS)):
        return f"the op {value!r}"
    if key in {"expr_str", "guards_code"} and not _is_arithmetic(value):
        return f"the expression {value!r}"
    if key in {"in_spec", "out_spec"} and "default_factory" in value:
        return "a default dictionary, which imports what it names"
    if key in {"name", "as_name", "path_name"} and re.fullmatch(r"[\w.\[\]'\"<>:-]*", value) is None:
        return f"the name {value!r}"
    return ""


def _is_arithmetic(text: str) -> bool:
    """Whether an expression computes with sizes, and nothing else."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, _NODES) and _is_plain(node) for node in ast.walk(tree))


def _is_plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        called = node.func
        if isinstance(called, ast.Attribute):
            return called.attr in _METHODS
        return isinstance(called, ast.Name) and _FUNCTIONS.fullmatch(called.id) is not None
    if isinstance(node, ast.Attribute):
        return not node.attr.startswith("_")
    if isinstance(node, ast.Name):
        return any(pattern.fullmatch(node.id) for pattern in (_FUNCTIONS, _NAMES))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        power = node.right.value if isinstance(node.right, ast.Constant) else None
        return isinstance(power, int) and abs(power) <= _LARGEST_POWER
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # sympy evaluates the text of a Symbol once more only if it is no name
        return re.fullmatch(r"\w*", node.value) is not None
    return True
