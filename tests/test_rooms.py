"""The rooms of server/, export/ and client/: who may import whom, without circles, in folders and modules of a size.

Tests mirror them, in folders and modules of the same size.
"""

import ast
import functools
import graphlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import OF_THE_PROTOCOL, ON_BOTH_FRONTS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"resonnx_server": "server", "resonnx_export": "export", "resonnx": "client"}
LARGEST_FOLDER = 15
LONGEST_MODULE = 300
# Folders of tests, below those of the distributions, that mirror no room; each with the folders below it.
NO_ROOM = (
    "server/lifecycle",  # the process: modules beside the rooms
    "server/promise",  # a state machine over the engines
    "client/calls",  # _clients: each test asks both
    "export/layouts/caption_sources",  # other projects' code
    "export/user_code/tutorials",  # likewise
)
# Rooms without a folder of tests, and where their tests are.
TESTED_ELSEWHERE = {
    "client/_tasks": "tests/client/commands/",
    "client/_clients": "tests/client/calls/",
    "export/commands": "tests/export/test_cli.py, tests/export/user_code/",
}


def floors(*rooms: set[str]) -> dict[str, set[str]]:
    """Return a table in which each room may import the rooms of lower floors, given from the bottom up."""
    return {name: set().union(*rooms[:number]) for number, names in enumerate(rooms) for name in names}


_SERVER = {
    "errors": set[str](),
    "pace": set(),
    "observe": {"errors"},
    "runtime": {"errors"},
    "drift": {"runtime", "observe", "errors"},
    "access": {"config", "observe", "pace", "errors"},
    "memory": {"errors"},
    "scheduling": {"drift", "runtime", "observe", "errors"},
    "preprocessing": {"memory", "scheduling", "runtime", "observe", "errors"},
    "captioning": {"scheduling", "drift", "runtime", "observe", "errors"},
    "tensors": {"scheduling", "drift", "runtime", "observe", "errors"},
    "video": {"tensors", "scheduling", "runtime", "observe", "errors"},
    "inference": {
        "config",
        "declaration",
        "access",
        "preprocessing",
        "captioning",
        "tensors",
        "video",
        "drift",
        "scheduling",
        "memory",
        "runtime",
        "observe",
        "errors",
    },
    "repository": {
        "drift",
        "version_policy",
        "inference",
        "captioning",
        "tensors",
        "video",
        "scheduling",
        "runtime",
        "observe",
        "config",
        "config_text",
        "declaration",
        "errors",
    },
    "comparison": {
        "inference",
        "captioning",
        "tensors",
        "scheduling",
        "memory",
        "runtime",
        "observe",
        "config",
        "errors",
    },
    "protocol": {
        "declaration",
        "version_policy",
        "comparison",
        "inference",
        "access",
        "memory",
        "runtime",
        "observe",
        "errors",
    },
    "rpc": {"protocol", "comparison", "inference", "access", "memory", "runtime", "observe", "errors"},
    "http": {"protocol", "inference", "access", "memory", "runtime", "observe", "pace", "errors"},
    # Settings: their types, their texts, where they come from. They name no room.
    "version_policy": set[str](),
    "declaration": set[str](),
    "config": {"config_text", "declaration", "version_policy"},
    "config_text": set[str](),
    "config_sources": {"config", "config_text"},
    "flags": {"config", "config_text"},
    "checking": {
        "repository",
        "access",
        "scheduling",
        "runtime",
        "observe",
        "config",
        "config_text",
        "declaration",
        "version_policy",
        "errors",
    },
    # The process.
    "signals": set[str](),
    "readiness": {"repository", "inference", "scheduling", "observe", "errors"},
    "devices": {"repository", "scheduling", "runtime"},
}
_SERVER["parts"] = {*_SERVER} - {"checking", "flags", "config_sources", "config_text", "signals", "readiness"}
_SERVER["lifecycle"] = {*_SERVER} - {"checking", "flags"}
_SERVER["command"] = {*_SERVER}
_SERVER["__main__"] = {"command", "checking", "signals", "runtime"}

# By package: which rooms (folders, and modules beside them) each room may import.
MAY_IMPORT: dict[str, dict[str, set[str]]] = {
    "resonnx_server": _SERVER,
    "resonnx_export": floors(
        {"errors", "progress", "wording"},
        {"networks", "options", "special_tokens"},
        {"assumptions"},
        {"checkpoints", "pictures"},
        {"vocabulary", "class_names", "proof"},
        {"answers", "graphs", "layouts", "demo"},
        {"sources"},
        {"user_code", "onnx_files"},
        {"precision"},
        {"tasks"},
        {"report"},
        {"publish"},
        {"classifier", "captioner", "video_classifier", "inspection"},
        {"module", "onnx_classifier"},
        {"verification"},
        {"demonstration"},
        {"commands"},
        {"cli"},
        {"__main__"},
    ),
    "resonnx": floors(
        {"_errors", "_caption_options", "_table", "_rpcs"},
        {"_results", "_reasons"},
        {"_messages", "_video_results"},
        {"_comparisons", "_operations", "_tasks"},
        {"_transport"},
        {"_pictures"},
        {"_clients"},
        {"_commands"},
        {"bench"},
        {"cli"},
        {"__main__"},
    ),
}


def modules(package: str) -> dict[str, Path]:
    """Return the files of a package's modules by name; a room's `__init__` has the room's name."""
    base = ROOT / PACKAGES[package]
    found = {}
    for path in sorted((base / package).rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports(package: str) -> dict[str, set[str]]:
    """Return which modules of the package each of its modules imports, wherever in the file."""
    known = modules(package)

    def named(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in known else str(node.module)

    return {
        module: {name for node in ast.walk(ast.parse(path.read_text())) for name in named(node)} & known.keys()
        for module, path in known.items()
    }


def room(module: str) -> str:
    """Return the room of a module: the first name below the package's, or "" for the package itself."""
    return ([*module.split("."), ""])[1]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_through_others(package: str) -> None:
    graphlib.TopologicalSorter(imports(package)).prepare()


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_import_only_what_the_table_allows(package: str) -> None:
    allowed = MAY_IMPORT[package]
    graphlib.TopologicalSorter(allowed).prepare()
    assert {room(module) for module in modules(package)} - {""} == set(allowed), "a room is missing, or gone"
    crossings = {
        (room(module), room(other)): f"{module} imports {other}"
        for module, others in imports(package).items()
        for other in others
        if room(module) and room(other) and room(module) != room(other)
    }
    upward = [what for (here, there), what in crossings.items() if there not in allowed[here]]
    assert upward == []


def test_folders_hold_at_most_15_modules() -> None:
    sizes = Counter(
        path.parent.relative_to(ROOT).as_posix()
        for top in ("server", "export", "client", "tests", "benchmarks")
        for path in (ROOT / top).rglob("*.py")
        if path.name != "__init__.py"
    )
    assert {folder: size for folder, size in sizes.items() if size > LARGEST_FOLDER} == {}


def test_modules_have_at_most_300_lines() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines())
        for top in (*PACKAGES.values(), "tests")
        for path in (ROOT / top).rglob("*.py")
    }
    assert {path: length for path, length in lengths.items() if length > LONGEST_MODULE} == {}


def test_folders_of_tests_mirror_the_rooms() -> None:
    rooms = {
        f"{top}/" + "/".join(part.lstrip("_") for part in path.parent.relative_to(ROOT / top / package).parts)
        for package, top in PACKAGES.items()
        for path in (ROOT / top / package).rglob("*.py")
    }
    folders = {
        path.parent.relative_to(ROOT / "tests").as_posix()
        for top in PACKAGES.values()
        for path in (ROOT / "tests" / top).glob("*/**/*.py")
    }
    assert folders - rooms == set(NO_ROOM)


def test_every_room_has_tests() -> None:
    missing = {
        f"{top}/{room.name}"
        for package, top in PACKAGES.items()
        for room in (ROOT / top / package).iterdir()
        if (room / "__init__.py").exists()
        and not (ROOT / "tests" / top / f"test_{room.name}.py").exists()
        and not any((ROOT / "tests" / top / room.name.lstrip("_")).rglob("test_*.py"))
    }
    assert missing == set(TESTED_ELSEWHERE)


@pytest.mark.parametrize("entry", [*OF_THE_PROTOCOL, *ON_BOTH_FRONTS])
def test_tests_that_run_on_both_fronts_exist(entry: str) -> None:
    assert (ROOT / "tests" / entry).exists()
    assert entry.startswith(OF_THE_PROTOCOL)
