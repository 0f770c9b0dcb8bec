"""The mutants of a module: every small change of one expression or statement that a caller could see."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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


@dataclass(frozen=True)
class Mutant:
    """One change of `file`: its UTF-8 bytes from `start` to `end`, which are `old`, become `new`."""

    room: str
    file: str
    line: int
    last_line: int
    start: int
    end: int
    kind: str
    old: str
    new: str
    # Runs when the module is imported, not when a function is called.
    on_import: bool

    def applied(self, source: bytes) -> bytes:
        """Return the module's source with the change."""
        return source[: self.start] + self.new.encode() + source[self.end :]


def mutants_of(room: str, file: Path, source: str) -> Iterator[Mutant]:
    """Return every mutant of one module."""
    starts = [0]
    for text in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(text))

    for node, on_import in _executed(ast.parse(source), True):
        for changed, kind, new in _changes(node):
            assert changed.end_lineno is not None
            assert changed.end_col_offset is not None
            start = starts[changed.lineno - 1] + changed.col_offset
            end = starts[changed.end_lineno - 1] + changed.end_col_offset
            old = source.encode()[start:end].decode()
            yield Mutant(room, str(file), changed.lineno, changed.end_lineno, start, end, kind, old, new, on_import)


def _changes(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str, str]]:
    """Return (what is replaced, kind of change, by what) for the mutants that change `node` itself."""
    match node:
        case ast.Compare(left, [operator], comparators) if type(operator) in _COMPARISONS:
            other = ast.Compare(left, [_COMPARISONS[type(operator)]()], comparators)
            yield node, "comparison", f"({ast.unparse(other)})"
        case ast.BinOp(left, operator, right) if type(operator) in _ARITHMETIC and not _is_text(node):
            yield node, "arithmetic", f"({ast.unparse(ast.BinOp(left, _ARITHMETIC[type(operator)](), right))})"
        case ast.BoolOp(operator, values):
            swapped = ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
            yield node, "boolean", f"({ast.unparse(swapped)})"
        case ast.UnaryOp(ast.Not(), operand):
            yield node, "not", f"({ast.unparse(operand)})"
        case ast.Constant(bool(value)):
            yield node, "constant", repr(not value)
        case ast.Constant(int(value) | float(value)):
            yield node, "constant", repr(value + 1)
        case ast.If(test) | ast.IfExp(test):
            yield test, "condition", "True"
            yield test, "condition", "False"
        case ast.Expr(ast.Call() | ast.Await()):
            yield node, "removed call", "pass"
        case ast.Return(value) if value is not None and not _is_none(value):
            yield node, "returned", "return None"
        case ast.Break() | ast.Continue():
            yield node, "loop", "pass"


def _executed(node: ast.AST, on_import: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Walk what runs and has an effect that a caller could see: no log calls, messages, assertions or types."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr | ast.Assert | ast.Raise):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Call) and _is_log(child.value):
                continue
            yield child, on_import
            in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _executed(child, on_import and not in_function)


def _is_log(call: ast.Call) -> bool:
    return ast.unparse(call.func).startswith(("_log.", "logging."))


def _is_text(node: ast.AST) -> bool:
    return any(
        isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str | bytes))
        for part in ast.walk(node)
    )


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
