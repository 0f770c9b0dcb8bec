"""Reads pickles without running them: each class or function that a pickle names becomes an inert Stub.

Python's unpickler and PyTorch's `weights_only` call allowed functions with the file's arguments: 246 bytes that encode
`bytearray(2**32)` take 4 GB. This module interprets each opcode and calls only the constructors that its caller passes.
"""

import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final, NoReturn

from resonnx_export.checkpoints.pickle_text import BadPickle, read_line, read_path, read_string
from resonnx_export.wording import is_printable

# Limit of opcodes and copied elements. An opcode takes at most 216 bytes (an empty set), so memory is at most 432 MB.
_MAX_WORK: Final = 2_000_000
_DICTS: Final = ("collections.OrderedDict", "collections.defaultdict")
_SETS: Final = ("builtins.set", "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset")
_RECONSTRUCTORS: Final = ("copyreg._reconstructor", "copy_reg._reconstructor")


@dataclass(frozen=True)
class Name:
    """The name of a class or function, such as "torch.FloatStorage"; it was not looked up."""

    path: str


@dataclass(eq=False, repr=False, slots=True)
class Stub:
    """An object that was not created: its class or function ("module.qualname"), arguments and state.

    `state` is the `__dict__`, or the argument of `__setstate__`; `items` and `elements` are those of a kind of dict or
    list.
    """

    path: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] | None = None
    elements: list[Any] | None = None

    def __repr__(self) -> str:
        # The attributes may be nested without limit, and may refer to themselves.
        return f"<{self.path}>"

    @property
    def attributes(self) -> dict[Any, Any]:
        """The object's `__dict__` as far as the pickle contains it, with its slots."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        return {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}


class OrderedDict(dict[Any, Any]):
    """A collections.OrderedDict with its attributes, such as a state_dict's `_metadata`."""

    __slots__ = ("attributes",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.attributes: dict[Any, Any] = {}


Constructors = Mapping[str, Callable[..., object]]


def unpickle(
    source: IO[bytes], constructors: Constructors | None = None, persistent: Callable[[Any], object] | None = None
) -> object:
    """Read one pickle of any protocol; byte strings of Python 2 are decoded as Latin-1.

    The `read` of `source` must return the rest if more is requested. `constructors` are called besides those of plain
    containers, by name; `persistent` returns the object of a persistent id, by default a Stub. Raises BadPickle if the
    pickle is damaged, or more work than any checkpoint.
    """
    try:
        return _Machine(constructors or {}, persistent).run(source)
    except BadPickle:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise BadPickle(f"the pickle is damaged ({type(error).__name__}: {str(error)[:100]})") from None


@dataclass
class _Machine:
    constructors: Constructors
    persistent: Callable[[Any], object] | None
    work: int = 0
    stack: list[Any] = field(default_factory=list)
    marked: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, source: IO[bytes]) -> object:
        while (code := source.read(1)) != pickle.STOP:
            if code not in _OPERATIONS:
                raise BadPickle("the pickle is cut short or damaged")
            self._spend(1)
            read, act = _OPERATIONS[code]
            act(self, read(source) if read else None)
        if len(self.stack) != 1 or self.marked:
            raise BadPickle("the pickle does not end with one object")
        return self.stack[0]

    def _spend(self, work: int) -> None:
        self.work += work
        if self.work > _MAX_WORK:
            raise BadPickle(f"the pickle has more than {_MAX_WORK:,} parts")

    def _elsewhere(self, argument: Any) -> NoReturn:
        raise BadPickle("the pickle refers to data outside the file")

    def _take(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise BadPickle("the pickle is damaged: its stack is too short")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _push(self, value: Any) -> None:
        # Not stack.append(_since_mark()), which would append to the stack that _since_mark replaces.
        self.stack.append(value)

    def _mark(self, argument: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        since, self.stack = self.stack, self.marked.pop()
        return since

    def _pop(self, argument: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def _memoize(self, argument: int | None) -> None:
        self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]

    def _stack_global(self, argument: Any) -> None:
        module, name = self._take(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise BadPickle("the pickle is damaged: a name that is no text")
        self.stack.append(Name(f"{module}.{name}"))

    def _call(self, function: Any, args: Any) -> object:
        """Return a container, the result of an allowed constructor, or a Stub."""
        if not isinstance(args, tuple) or not isinstance(function, Name | Stub):
            raise BadPickle("the pickle is damaged: it calls an object that is no function")
        path = function.path
        if isinstance(function, Stub):
            return Stub(f"{path}()", args)
        if path in _DICTS:
            if path == _DICTS[1]:
                return {}
            return OrderedDict(self._dict([item for pair in self._listed(args) for item in pair]))
        if path in _SETS:
            return {_key(value) for value in self._listed(args)}
        if path in _RECONSTRUCTORS and args and isinstance(args[0], Name):
            return Stub(args[0].path, args[2:])
        constructor = self.constructors.get(path)
        return Stub(path, args) if constructor is None else constructor(*args)

    def _listed(self, args: tuple[Any, ...]) -> Any:
        if not args:
            return ()
        # The same list may be copied again and again.
        self._spend(2 * len(args[0]))
        return args[0]

    def _dict(self, flat: list[Any]) -> dict[Any, Any]:
        keys = [_key(key) for key in flat[::2]]
        return dict(zip(keys, flat[1::2], strict=True))

    def _newobj_ex(self, argument: Any) -> None:
        function, args, keywords = self._take(3)
        self.stack.append(self._call(function, (*args, keywords) if keywords else args))

    def _obj(self, argument: Any) -> None:
        function, *args = self._since_mark()
        self._push(self._call(function, tuple(args)))

    def _build(self, argument: Any) -> None:
        # Attributes of other containers and of tensors are not needed.
        target, state = self._take(2)
        if isinstance(target, Stub):
            target.state = state
        elif isinstance(target, OrderedDict) and isinstance(state, dict):
            target.attributes = state
        self.stack.append(target)

    def _persistent(self, argument: str | None) -> None:
        pid = self._take(1)[0] if argument is None else argument
        self.stack.append(Stub("persistent id", (pid,)) if self.persistent is None else self.persistent(pid))

    def _set_items(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Stub):
            target.items = target.items or {}
            target = target.items
        if not isinstance(target, dict):
            raise BadPickle("the pickle is damaged: entries of an object that is no dict")
        target.update(self._dict(flat))

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Stub):
            target.elements = target.elements or []
            target = target.elements
        if isinstance(target, set):
            target.update(_key(value) for value in values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise BadPickle("the pickle is damaged: elements of an object that is no list")


def _key(value: Any) -> Any:
    """Check a dict's key. Python hashes nested tuples by recursion in C, which can exhaust the stack."""
    parts = value if isinstance(value, tuple) else (value,)
    for part in parts:
        if part is not None and not isinstance(part, str | bytes | int | float | Name | Stub):
            raise BadPickle(f"the pickle has a {type(value).__name__} as a key")
        # Messages name keys.
        if not is_printable(part):
            raise BadPickle("the pickle has a key that cannot be printed")
    return value


_Act = Callable[[_Machine, Any], object]
_ACTS: Final[Mapping[str, _Act]] = {
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "EMPTY_SET": lambda machine, _: machine._push(set()),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "TUPLE1": lambda machine, _: machine._push(tuple(machine._take(1))),
    "TUPLE2": lambda machine, _: machine._push(tuple(machine._take(2))),
    "TUPLE3": lambda machine, _: machine._push(tuple(machine._take(3))),
    "LIST": lambda machine, _: machine._push(machine._since_mark()),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._since_mark())),
    "DICT": lambda machine, _: machine._push(machine._dict(machine._since_mark())),
    "FROZENSET": lambda machine, _: machine._push(frozenset(map(_key, machine._since_mark()))),
    "APPEND": lambda machine, _: machine._extend(machine._take(1)),
    "APPENDS": lambda machine, _: machine._extend(machine._since_mark()),
    "ADDITEMS": lambda machine, _: machine._extend(machine._since_mark()),
    "SETITEM": lambda machine, _: machine._set_items(machine._take(2)),
    "SETITEMS": lambda machine, _: machine._set_items(machine._since_mark()),
    "MARK": _Machine._mark,
    "POP": _Machine._pop,
    "POP_MARK": lambda machine, _: machine._since_mark(),
    "DUP": lambda machine, _: machine._push(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine._memoize),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, key: machine._push(machine.memo[key])),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda machine, code: machine._push(Name(f"extension.{code}"))),
    "GLOBAL": lambda machine, path: machine._push(Name(path)),
    "STACK_GLOBAL": _Machine._stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine._push(machine._call(*machine._take(2)))),
    "NEWOBJ_EX": _Machine._newobj_ex,
    "INST": lambda machine, path: machine._push(machine._call(Name(path), tuple(machine._since_mark()))),
    "OBJ": _Machine._obj,
    "BUILD": _Machine._build,
    **dict.fromkeys(("PERSID", "BINPERSID"), _Machine._persistent),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), _Machine._elsewhere),
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
}
# pickletools decodes escapes in these, which pickle does not.
_READERS: Final = {"STRING": read_string, "GLOBAL": read_path, "INST": read_path, "PERSID": read_line}
# Reader of the argument and action by opcode. Opcodes without an action push their argument, a number or a string.
_OPERATIONS: Final[Mapping[bytes, tuple[Callable[[IO[bytes]], Any] | None, _Act]]] = {
    opcode.code.encode("latin-1"): (
        _READERS.get(opcode.name) or (opcode.arg.reader if opcode.arg else None),
        _ACTS.get(opcode.name, _Machine._push),
    )
    for opcode in pickletools.opcodes
}
