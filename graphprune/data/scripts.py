"""Functions in Python files that the user names: ``file.py:function``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphprune.errors import InputError


def named_function(text: str, default: str = "") -> tuple[Path, str]:
    """The file and the function that ``file.py:function`` names.

    Args:
        text: It; without a function the default is meant.
        default: Name of the function where none is given, "" if there has to be one.

    Raises:
        InputError: It names no function.
    """
    file, name = (text, default) if text.endswith(".py") else text.rsplit(":", 1) if ":" in text else (text, "")
    if not file.endswith(".py") or not name.isidentifier():
        raise InputError(f"{text}: names no function of a Python file; write FILE.py:FUNCTION")
    return Path(file), name


def is_script(text: str) -> bool:
    """Whether a path names a Python file, or a function in one."""
    return text.endswith(".py") or text.rpartition(":")[0].endswith(".py")


def load_function(text: str, default: str = "") -> Callable[..., Any]:
    """Run a Python file and take a function from it. The file can import its neighbours.

    Raises:
        InputError: The file does not exist or fails, or has no such function.
    """
    path, name = named_function(text, default)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"graphprune_script_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is left beside the user's file
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{path}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    finally:
        sys.dont_write_bytecode = written
        sys.path.remove(str(path.resolve().parent))
    found = getattr(module, name, None)
    if not callable(found):
        functions = sorted(k for k, v in vars(module).items() if callable(v) and not k.startswith("_"))
        raise InputError(f"{path}: has no function {name}; it has {', '.join(functions) or 'none'}")
    return found  # type: ignore[no-any-return]
