"""Mutation test of the server: changes one place at a time and sees whether the tests of its room notice.

    python tests/mutants.py --count 300 --seed 1 --minutes 90

A mutant is one small change of one expression or statement (a comparison, a constant, a condition, a removed call ...),
drawn at random from all such places in the rooms. Each runs in a copy of the tree: first the room's unit tests, then
those that boot a server. A mutant that no test notices survives. Log calls, messages, assertions, docstrings and types
are left out. The survivors are listed, as some are equivalent: no test could tell them from the original.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from typing import Final

_ROOT: Final = Path(__file__).resolve().parent.parent
_SERVER: Final = Path("server/resonnx_server")
# A room's unit tests, and those of its tests that boot servers: patterns of file names in tests/server.
ROOMS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "engine": (
        (
            "test_batcher*",
            "test_queue*",
            "test_admission*",
            "test_latency*",
            "test_urgency*",
            "test_pacing*",
            "test_caption_schedule*",
            "test_slots*",
            "test_device*",
            "test_engine*",
            "test_captioner*",
            "test_neighbours*",
            "test_runner*",
            "test_instance*",
            "test_warming*",
            "test_host*",
        ),
        ("test_many_clients*", "test_caption_requests*"),
    ),
    "intake": (("test_decode*", "test_memory*", "test_admission*"), ("test_vision*", "test_refusals*")),
    "rpc": (
        (
            "test_pipeline*",
            "test_order*",
            "test_tensor_inputs*",
            "test_urgency*",
            "test_answers*",
            "test_core*",
            "test_status*",
            "test_parameters*",
        ),
        (
            "test_oip*",
            "test_vision*",
            "test_refusals*",
            "test_rejected*",
            "test_caption_requests*",
            "test_stream*",
            "test_drain*",
            "test_reflection*",
            "test_keepalive*",
            "test_metadata*",
        ),
    ),
}
_COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
_TIMEOUT_S: Final = 300.0
# A pytest run's own status: tests failed (1), or could not be collected (2).
_NOTICED: Final = (1, 2)


@dataclass(frozen=True)
class Mutant:
    """A change: `old`, at a place of `file`, becomes `new`."""

    room: str
    file: str
    line: int
    start: int
    end: int
    kind: str
    old: str
    new: str


def mutants_of(room: str, file: Path, source: str) -> Iterator[Mutant]:
    """Return every mutant of one module; `start` and `end` are offsets into its UTF-8 bytes."""
    starts = [0]
    for text in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(text))

    def mutant(node: ast.expr | ast.stmt, kind: str, new: str) -> Mutant:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        return Mutant(room, str(file), node.lineno, start, end, kind, source.encode()[start:end].decode(), new)

    for node in _executed(ast.parse(source)):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
            other = ast.Compare(node.left, [_COMPARISONS[type(node.ops[0])]()], node.comparators)
            yield mutant(node, "comparison", f"({ast.unparse(other)})")
        elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _is_text(node):
            yield mutant(
                node, "arithmetic", f"({ast.unparse(ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right))})"
            )
        elif isinstance(node, ast.BoolOp):
            swapped = ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
            yield mutant(node, "boolean", f"({ast.unparse(swapped)})")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield mutant(node, "not", f"({ast.unparse(node.operand)})")
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            new = repr(not node.value) if isinstance(node.value, bool) else repr(node.value + 1)
            yield mutant(node, "constant", new)
        elif isinstance(node, ast.If | ast.IfExp):
            yield mutant(node.test, "condition", "True")
            yield mutant(node.test, "condition", "False")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await):
            yield mutant(node, "removed call", "pass")
        elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
            yield mutant(node, "returned", "return None")
        elif isinstance(node, ast.Break | ast.Continue):
            yield mutant(node, "loop", "pass")


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs and has an effect that a caller could see."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr | ast.Assert | ast.Raise):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Call) and _is_log(child.value):
                continue
            yield child
            yield from _executed(child)


def _is_log(call: ast.Call) -> bool:
    return ast.unparse(call.func).startswith(("_log.", "logging."))


def _is_text(node: ast.AST) -> bool:
    return any(
        isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str | bytes))
        for part in ast.walk(node)
    )


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def all_mutants(root: Path) -> list[Mutant]:
    """Return every mutant of the rooms below `root`."""
    found: list[Mutant] = []
    for room in ROOMS:
        for path in sorted((root / _SERVER / room).rglob("*.py")):
            found += mutants_of(room, path.relative_to(root), path.read_text())
    return found


def _noticed(mutant: Mutant, tree: Path, environment: dict[str, str]) -> bool:
    """Whether a test of the mutant's room fails in `tree` with the mutant in it."""
    path = tree / mutant.file
    original = path.read_bytes()
    path.write_bytes(original[: mutant.start] + mutant.new.encode() + original[mutant.end :])
    try:
        return any(_fails(tree, patterns, environment) for patterns in ROOMS[mutant.room])
    finally:
        path.write_bytes(original)


def _fails(tree: Path, patterns: tuple[str, ...], environment: dict[str, str]) -> bool:
    files = sorted({str(path) for pattern in patterns for path in (tree / "tests/server").glob(f"{pattern}.py")})
    if not files:
        return False
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-o", "timeout=60", *files]
    process = subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(_TIMEOUT_S) in _NOTICED
    except subprocess.TimeoutExpired:
        return True
    finally:
        # Servers that a killed run has left.
        _end_group(process)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def main() -> None:
    """Draw mutants, run them, print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=_ROOT, help="the tree to test (this one)")
    parser.add_argument("--count", type=int, default=300, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=90.0, help="no further mutant is begun after so long")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="mutants at once")
    parser.add_argument("--work", type=Path, required=True, help="folder for copies of the tree")
    parser.add_argument("--json", type=Path, help="where to write the outcome of each mutant")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    drawn = random.Random(arguments.seed).sample(all_mutants(root), arguments.count)
    ends = time.monotonic() + 60 * arguments.minutes
    trees: Queue[tuple[Path, dict[str, str]]] = Queue()
    for worker in range(arguments.workers):
        tree = arguments.work.resolve() / f"tree-{worker}"
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(root, tree, ignore=shutil.ignore_patterns(".*", "models", "__pycache__"))
        rooms = os.pathsep.join(str(tree / room) for room in ("proto", "server", "export", "client"))
        trees.put((tree, {**os.environ, "PYTHONPATH": rooms, "PYTHONDONTWRITEBYTECODE": "1"}))

    outcomes: list[tuple[Mutant, bool]] = []

    def run(mutant: Mutant) -> None:
        if time.monotonic() > ends:
            return
        tree, environment = trees.get()
        try:
            outcomes.append((mutant, _noticed(mutant, tree, environment)))
        finally:
            trees.put((tree, environment))
        killed = sum(noticed for _, noticed in outcomes)
        print(f"\r{len(outcomes)} of {len(drawn)}: {killed} killed", end="", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(run, drawn))
    print(file=sys.stderr)
    total, killed = Counter(m.room for m, _ in outcomes), Counter(m.room for m, noticed in outcomes if noticed)
    for room in ROOMS:
        if total[room]:
            print(f"{room}: {killed[room]} of {total[room]} killed, {killed[room] / total[room]:.0%}")
    print(f"all: {killed.total()} of {total.total()} killed, {killed.total() / max(1, total.total()):.0%}")
    for mutant, noticed in outcomes:
        if not noticed:
            print(f"survived: {mutant.file}:{mutant.line} {mutant.kind}: {mutant.old!r} -> {mutant.new!r}")
    if arguments.json:
        rows = [{**asdict(mutant), "killed": noticed} for mutant, noticed in outcomes]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
