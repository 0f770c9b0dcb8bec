"""Compares a version that has a manifest with its model's config.pbtxt: the manifest decides, and both must agree."""

from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.declaration import Declaration, DeclaredTensor
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.model_config.declared_graph import datatype, fits
from resonnx_server.runtime.model_files.manifest import MANIFEST
from resonnx_server.runtime.session import TensorSpec

# Input of picture files, beside the graph's own of pixels.
_FILES: Final = "encoded_image"


def check_agreement(
    declaration: Declaration,
    manifest: pb.Manifest,
    file: str,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> None:
    """Raise ModelRefused unless a config.pbtxt says of a model what its manifest says.

    Args:
        declaration: What the config.pbtxt declares. It may leave out inputs and outputs, which are served all the same.
        manifest: The version's manifest.
        file: Its first ONNX file.
        inputs: Pixels, with the batch axis.
        outputs: All outputs, with the batch axis.
    """
    if declaration.file not in ("", file):
        raise ModelRefused(
            f"config.pbtxt: default_model_filename is {declaration.file!r}; {MANIFEST} says {file!r}, which is served"
        )
    for other in declaration.files_by_capability.values():
        if other != file:
            raise ModelRefused(
                f"config.pbtxt: cc_model_filenames has {other!r}; {MANIFEST} says {file!r}, which is served on each GPU"
            )
    shapes = {spec.name: (datatype(spec.dtype), spec.shape[1:]) for spec in (*inputs, *outputs)}
    for each in declaration.inputs:
        if each.name == _FILES and (each.datatype, each.dims) == ("BYTES", (1,)) and each.reshape in (None, ()):
            continue
        _check(each, "input", {spec.name for spec in inputs} | {_FILES}, shapes.get(each.name, ("BYTES", ())))
        if each.layout == "NCHW":
            raise ModelRefused(f"{each.where}: input {each.name!r} is FORMAT_NCHW; by {MANIFEST} it is FORMAT_NHWC")
    for each in declaration.outputs:
        _check(each, "output", {spec.name for spec in outputs}, shapes.get(each.name, ("", ())))
        if each.labels and each.labels != tuple(manifest.classifier.labels):
            raise ModelRefused(f"{each.where}: the labels of {each.label_file!r} are not those of {MANIFEST}")


def _check(
    each: DeclaredTensor, kind: str, known: set[str], expected: tuple[str, tuple[int | str | None, ...]]
) -> None:
    name, sizes = expected
    if each.name not in known:
        raise ModelRefused(f"{each.where}: the model has no {kind} {each.name!r}; it has {', '.join(sorted(known))}")
    if each.datatype != name:
        raise ModelRefused(f"{each.where}: {kind} {each.name!r} is {each.datatype}; by {MANIFEST} it is {name}")
    dims = each.dims if each.reshape is None else each.reshape
    # A tensor without sizes is seen as [1].
    if not fits(dims, sizes) and (sizes or dims != (1,)):
        raise ModelRefused(
            f"{each.where}: {kind} {each.name!r} has the dims {list(dims)}; by {MANIFEST} they are {list(sizes)}"
        )
