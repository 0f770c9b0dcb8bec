"""Loads TorchScript and torch.export (.pt2) files as modules that the exporter can trace."""

import warnings
import zipfile
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from resonnx_export.errors import BadInput
from resonnx_export.user_code.running import running

Size = tuple[int, ...]

# Greatest difference that the conversion of TorchScript may make, as a share of the largest value.
_CONVERTED: Final = 1e-5
_RECORD: Final = ("serialized_exported_program.json", "/archive_format", "/models/model.json")


def program_kind(path: Path) -> str | None:
    """Return "torchscript" or "pt2"; None for other files."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return "torchscript"
    return "pt2" if any(name.endswith(_RECORD) for name in names) else None


def load_exported(path: Path) -> tuple[nn.Module, Size | None]:
    """Load a .pt2 file, with the size that its picture [N,C,H,W] was exported with.

    A program for a batch of another size than the example's is tried: most operators take any. Raises BadInput.
    """
    with running(f"loading {path}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(path)
        inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1:
        raise BadInput(f"{path} takes {len(inputs)} inputs: a classifier takes one, the pictures")
    value = inputs[0].meta.get("val")
    sizes = tuple(value.shape) if isinstance(value, Tensor) else ()
    known = len(sizes) == 4 and all(isinstance(size, int) for size in sizes[1:])
    return _without_guards(program), tuple(int(size) for size in sizes[1:]) if known else None


def from_torchscript(module: torch.jit.ScriptModule, example: Tensor) -> nn.Module:
    """Return a TorchScript module as a graph that can be traced again, and gives the same for two batches.

    Raises:
        BadInput: It runs operators that have no equivalent, raises on the example, or takes one batch size only.
    """
    with running("TorchScript's forward"):
        module(example)
    try:
        from torch._export.converter import TS2EPConverter

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = TS2EPConverter(module, (example,)).convert()
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BadInput(
            f"the TorchScript program cannot be converted ({reason[0]}): give the Python class that it was made from, "
            "or a program of torch.jit.trace or torch.export"
        ) from error
    graph = _without_guards(program)
    for batch in (example, torch.cat([example, -example[:1]])):
        with running(f"the TorchScript program, given {len(batch)} pictures,"):
            answers = [tree_leaves(each(batch)) for each in (module, graph)]
        if not all(map(_close, *answers)):
            raise BadInput("the TorchScript program, once converted, gives other values: give the Python class")
    return graph


def _close(reference: object, found: object) -> bool:
    if not isinstance(reference, Tensor) or not isinstance(found, Tensor) or reference.shape != found.shape:
        return reference is found
    return bool((reference - found).abs().max() <= _CONVERTED * reference.abs().max())


def _without_guards(program: torch.export.ExportedProgram) -> nn.Module:
    """Return the program's graph without the guards of its example's batch size, which the proof replaces."""
    module = program.module(check_guards=False)
    return fx.GraphModule(module, module.graph)
