"""An ONNX file as a recognised checkpoint, and its graph for the server."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.batch_axis import with_free_batch
from resonnx_server.runtime.session import first_line

from resonnx_export.assumptions.telling import ONNX
from resonnx_export.errors import BadInput, ParityFailed
from resonnx_export.graphs.trace import Activation
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.onnx_files.form import Form, find_form
from resonnx_export.onnx_files.graft import graft
from resonnx_export.onnx_files.network import OnnxNetwork
from resonnx_export.onnx_files.reading import OnnxFile, read_onnx
from resonnx_export.pictures.recipe import Size
from resonnx_export.proof.parity import RTOL, open_session

LAYOUT: Final = ONNX
# Of a trial: no batch of the original that is fixed to one or a power of two.
_ROWS: Final = 3
_SEED: Final = 3001
# Operators named in the description, at most.
_NAMED: Final = 3


def open_onnx(path: Path, size: Size, classes: int | None = None, output: str | None = None) -> OnnxNetwork:
    """Read an ONNX file as a network.

    Args:
        path: The file; external data is beside it.
        size: Height and width of pictures, if the graph leaves them open.
        classes: Number of classes, to choose among several outputs; None if it is not known.
        output: Name of the output with the classes; None to look for it.

    Raises:
        BadInput: It cannot be read or run here, or is no classifier.
    """
    file = read_onnx(path)
    try:
        session = open_session(file.content)
    except ParityFailed as error:
        raise BadInput(f"{path.name}: {str(error).removeprefix('the exported graph does not load: ')}") from None
    form = find_form(file.model, session, size, classes, output)
    network = OnnxNetwork(file, form, form.size or size)
    if network.ends_as_found(form.size or size):
        return network
    # The output as it is, then.
    return OnnxNetwork(file, replace(form, logits=form.output, features=None, activation=None), form.size or size)


def recognise_onnx(network: OnnxNetwork) -> RecognisedCheckpoint:
    """Return the network with its description."""
    file, form = network.file, network.form
    kinds = Counter(node.op_type for node in file.model.graph.node if node.op_type != "Constant")
    named = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_NAMED))
    notes = [f"classes: output {form.output!r}, {network.num_classes} of them"]
    if form.activation is not None:
        notes.append(f"the file ends with its own {form.activation}; logits are the values before it")
    if form.batch is not None:
        notes.append(f"the batch size, {form.batch} in the file, is free in the export")
    return RecognisedCheckpoint(
        LAYOUT,
        f"graph of {named}, opset {file.opset}",
        network,
        ("float32",),
        notes=tuple(notes),
    )


def grafted(network: ClassifierNetwork, recipe: pb.ImageInput, activation: Activation) -> bytes:
    """Return model.onnx of a network that is an ONNX file, as trace_classifier does of others.

    Raises:
        BadInput: The file works with its own batch size only.
        ParityFailed: The graph is not valid ONNX.
    """
    assert isinstance(network, OnnxNetwork)
    content = _batched(network, (recipe.height, recipe.width))
    return graft(content, network.form, recipe, network.num_classes, network.feature_size, activation)


def _batched(network: OnnxNetwork, size: tuple[int, int]) -> bytes:
    form = network.form
    x = np.random.default_rng(_SEED).standard_normal((_ROWS, form.channels, *size)).astype(np.float32)
    expected = network.answers(x)[form.output]
    reason = ""
    for content in _free_batches(network.file, form):
        try:
            found = open_session(content).run({form.input: form.given(x)}, [form.output])[form.output]
        except Exception as error:  # ONNX Runtime's errors share no base class
            reason = first_line(error)
            continue
        if _agree(found, expected):
            return content
        reason = reason or "pictures of one batch change each other's answers"
    raise BadInput(
        f"the graph works with {form.batch or 1} pictures at a time only, and a server joins any number: export it "
        f"again with a free batch axis, in PyTorch with dynamic_shapes, and give that file ({reason})"
    )


def _free_batches(file: OnnxFile, form: Form) -> Iterator[bytes]:
    names = {form.input, *(output.name for output in file.model.graph.output)}
    try:
        yield with_free_batch(file.content, names)
        yield with_free_batch(file.content, names, form.batch or 1)
    except ModelRefused as refused:
        raise BadInput(refused.message) from None


def _agree(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and bool(
        (np.abs(found - expected) <= 10 * RTOL * np.abs(expected).max()).all()
    )
