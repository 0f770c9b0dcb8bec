"""Creates the manifest of an export, before any measurement."""

from collections.abc import Sequence
from importlib.metadata import version

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.manifest import SCHEMA_VERSION, onnx_files, validate_manifest
from resonnx_server.runtime.model_files.needed_version import NEEDED_SERVER
from resonnx_server.runtime.providers.installed import runtime_distribution

from resonnx_export.checkpoints.files import SourceFile
from resonnx_export.errors import BadInput
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.precision.bounds import fp32_bound
from resonnx_export.tasks import TASKS

_TOOLS = ("resonnx-export", "torch", "onnx", "onnxscript", "numpy", "Pillow")


def new_manifest(
    recognised: RecognisedCheckpoint,
    files: Sequence[SourceFile],
    image_input: pb.ImageInput | None,
    spec: pb.ClassifierSpec | pb.CaptionerSpec | pb.VideoClassifierSpec,
) -> pb.Manifest:
    """Return a manifest with fp32 allowed and parity empty; the type of `spec` determines the task.

    `image_input` is None for a network that reads no pictures.

    Raises:
        BadInput: A value that no server accepts, e.g. an input size out of range.
    """
    task = next(task for task in TASKS.values() if isinstance(spec, task.spec))
    manifest = pb.Manifest(
        schema_version=SCHEMA_VERSION,
        task=task.kind,
        input=image_input,
        source=pb.Source(
            sha256=[file.sha256 for file in files],
            layout=recognised.layout,
            architecture=recognised.architecture,
            parameters=recognised.parameters,
            file_names=[file.name for file in files],
            file_bytes=[file.size for file in files],
        ),
        tool_versions=dict([*((tool, version(tool)) for tool in _TOOLS), runtime_distribution()]),
        verified_against=recognised.reference,
        assumptions=[assumption.message() for assumption in recognised.assumptions],
        needs_server=NEEDED_SERVER,
    )
    getattr(manifest, task.model).CopyFrom(spec)
    manifest.precisions.extend(fp32_bound(file) for file in onnx_files(manifest))
    try:
        validate_manifest(manifest)
    except ModelRefused as error:
        raise BadInput(str(error)) from None
    return manifest
