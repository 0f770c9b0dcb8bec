"""Imports package.module:attribute and path/file.py:attribute, and makes a module of an instance, class or function."""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from resonnx_export.errors import BadInput
from resonnx_export.user_code.running import running


def read_arguments(given: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE arguments; a VALUE that is no Python literal is text.

    Raises:
        BadInput: An argument without "=", a name that is no identifier, or one that is given twice.
    """
    arguments: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name.isidentifier():
            raise BadInput(f"--set {each!r} is not NAME=VALUE")
        if name in arguments:
            raise BadInput(f"--set gives {name} twice")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            arguments[name] = value
    return arguments


def load_object(target: str) -> Any:
    """Import an object by "package.module:attribute" or "path/file.py:attribute"; attributes may be dotted.

    The current folder, or the file's, is put before sys.path and stays there, as code may import more later.

    Raises:
        BadInput: The target has another form, does not exist, or its code raises.
    """
    source, colon, attribute = target.rpartition(":")
    if not colon or not source or not all(part.isidentifier() for part in attribute.split(".")):
        raise BadInput(f"{target!r} is not package.module:attribute nor path/file.py:attribute")
    found: Any = _from_file(Path(source)) if source.endswith(".py") else _from_package(source)
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in vars(found) if not name.startswith("_")] if hasattr(found, "__dict__") else []
            raise BadInput(f"{source} has no attribute {attribute!r}; it has {', '.join(public[:20]) or 'none'}")
        found = getattr(found, part)
    return found


def make_module(made: Any, arguments: Mapping[str, Any], target: str) -> nn.Module:
    """Return a module instance, or the result of calling a class or function with the arguments.

    Raises:
        BadInput: There is no module, arguments are given for an instance, or the code raises.
    """
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise BadInput(f"{target} is a {type(made).__name__}: a torch.nn.Module, its class or a function is needed")
        with running(f"{target}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"):
            made = made(**arguments)
        if not isinstance(made, nn.Module):
            raise BadInput(f"{target} returned a {type(made).__name__}, not a torch.nn.Module")
    elif arguments:
        raise BadInput(f"{target} is a module already: --set is for a class or a function")
    return made


def _from_package(name: str) -> ModuleType:
    _search_first(Path.cwd())
    if not all(part.isidentifier() for part in name.split(".")):
        raise BadInput(f"{name!r} is no module's name; a file is given as path/file.py:attribute")
    with running(f"importing {name}"):
        return importlib.import_module(name)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInput(f"{path} is no file")
    _search_first(path.resolve().parent)
    name = path.stem if path.stem not in sys.modules else f"_user_code_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # Classes are looked up here by dataclasses and pickles.
    sys.modules[name] = module
    with running(f"running {path}"):
        specification.loader.exec_module(module)
    return module


def _search_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
