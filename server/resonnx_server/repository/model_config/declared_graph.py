"""Compares a graph with what a config.pbtxt declares of it, and makes the view that clients get."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from resonnx_server.declaration import Declaration, DeclaredTensor
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.session import Session
from resonnx_server.runtime.tensor_view import Reshape, TensorSpec, TensorView

# NumPy's names of datatypes that differ from the protocol's only by these.
_NAMES: Final = {"float16": "FP16", "float32": "FP32", "float64": "FP64", "object": "BYTES"}


def view_of(session: Session, declaration: Declaration, *, batched: bool) -> TensorView:
    """Return the inputs and outputs of a graph as declared.

    Args:
        session: The graph's, as it is.
        declaration: What is declared of it.
        batched: Axis 0 is the batch's, and in no declared shape.

    Raises:
        ModelRefused: The graph has not these inputs and outputs.
    """
    fed: dict[str, Reshape] = {}
    computed: dict[str, Reshape] = {}
    inputs, overridable, outputs = session.inputs, session.overridable, session.outputs
    if declaration.inputs:
        needed = {spec.name: spec for spec in session.inputs}
        replaced = {spec.name: spec for spec in session.overridable}
        _check_inputs(declaration, needed, replaced)
        inputs = tuple(
            _shown(each, needed[each.name], fed, "input", batched=batched)
            for each in declaration.inputs
            if not each.optional
        )
        overridable = tuple(
            _shown(each, replaced[each.name], fed, "input", batched=False)
            for each in declaration.inputs
            if each.optional
        )
    if declaration.outputs:
        known = {spec.name: spec for spec in session.outputs}
        for each in declaration.outputs:
            if each.name not in known:
                raise ModelRefused(f"{each.where}: the graph has no output {each.name!r}; it has {_named(known)}")
        outputs = tuple(
            _shown(each, known[each.name], computed, "output", batched=batched) for each in declaration.outputs
        )
    return TensorView(inputs, outputs, overridable, fed, computed)


def _check_inputs(
    declaration: Declaration, needed: Mapping[str, TensorSpec], replaced: Mapping[str, TensorSpec]
) -> None:
    for each in declaration.inputs:
        if each.optional and each.name in needed:
            raise ModelRefused(
                f"{each.where}: input {each.name!r} is optional, and the graph needs it: it has no value of its own"
            )
        if not each.optional and each.name in replaced:
            raise ModelRefused(
                f"{each.where}: the graph has a value of its own for {each.name!r}: declare it optional, or not at all"
            )
        if each.name not in needed and each.name not in replaced:
            raise ModelRefused(f"{each.where}: the graph has no input {each.name!r}; it has {_named(needed)}")
    declared = {each.name for each in declaration.inputs}
    if missing := [name for name in needed if name not in declared]:
        where = declaration.inputs[0].where
        raise ModelRefused(f"{where}: the graph needs the input {missing[0]!r} as well, which is not declared")


def _shown(
    each: DeclaredTensor, spec: TensorSpec, reshapes: dict[str, Reshape], kind: str, *, batched: bool
) -> TensorSpec:
    """Return a tensor as clients see it, and add its reshape, if it has one."""
    name = datatype(spec.dtype)
    if each.datatype != name:
        raise ModelRefused(f"{each.where}: {kind} {each.name!r} is {each.datatype}; in the graph it is {name}")
    graph_dims = each.dims if each.reshape is None else each.reshape
    rows, sizes = spec.shape[: int(batched)], spec.shape[int(batched) :]
    if (batched and not rows) or not fits(graph_dims, sizes):
        field = "dims" if each.reshape is None else "reshape"
        batch = " after the batch axis" if batched else ""
        raise ModelRefused(
            f"{each.where}: {kind} {each.name!r} has the {field} {list(graph_dims)}{batch}; in the graph it is "
            f"{list(spec.shape)}"
        )
    if each.reshape is not None:
        reshapes[each.name] = Reshape(each.dims, each.reshape, batched)
        return TensorSpec(each.name, spec.dtype, (*rows, *(None if size == -1 else size for size in each.dims)))
    known = (axis if size == -1 else size for size, axis in zip(each.dims, sizes, strict=True))
    return TensorSpec(each.name, spec.dtype, (*rows, *known))


def fits(dims: Sequence[int], sizes: Sequence[int | str | None]) -> bool:
    """Whether declared sizes agree with the graph's where both are known."""
    if len(dims) != len(sizes):
        return False
    return all(not isinstance(axis, int) or size in (-1, axis) for size, axis in zip(dims, sizes, strict=True))


def datatype(dtype: np.dtype[np.generic]) -> str:
    """Return the tensor protocol's name of a datatype."""
    return _NAMES.get(dtype.name, dtype.name.upper())


def _named(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(repr(name) for name in specs) or "none"
