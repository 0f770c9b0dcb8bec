"""Reads and checks a model version's folder: the files that SHA256SUMS lists, and manifest.json among them.

Files are passed on as the checked bytes, so that nothing can change between check and use.
"""

import dataclasses
import hashlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from google.protobuf import json_format
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.alike import graph_sum
from resonnx_server.runtime.model_files.drift_reference import drift_fault
from resonnx_server.runtime.model_files.needed_version import refuse_newer
from resonnx_server.runtime.model_files.spec_faults import captioner_fault, classifier_fault
from resonnx_server.runtime.model_files.sums import MANIFEST as MANIFEST
from resonnx_server.runtime.model_files.sums import MAX_MANIFEST_BYTES, Vouch, accept_any, read_listed
from resonnx_server.runtime.model_files.sums import SUMS as SUMS
from resonnx_server.runtime.model_files.sums import sha256sums as sha256sums
from resonnx_server.runtime.video.spec import SEQUENCE_FILE, STEP_FILE, video_fault

SCHEMA_VERSION = 1
GOLDEN = "golden.npz"
CLASSIFIER_FILE = "model.onnx"
ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
# Row graphs, for captions that stay on a GPU; older exports lack them.
STATE_ROWS_FILE = "state_rows.onnx"
FEATURE_ROWS_FILE = "feature_rows.onnx"
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# Top-k entries of a decoder step; fewer if the vocabulary is smaller.
DECODER_TOP_K = 16
# Largest side of a model's input, in pixels.
MAX_SIDE = 4096
# 0: manifests from before the field existed.
_PIXEL_SCALES = (0, 1, 255)
# A larger bound would accept outputs that have little to do with the model's.
MAX_DEVIATION = 0.5
# In fp32 only the order of sums differs; exports use a tenth of this.
_MAX_FP32_DEVIATION = 0.01


@dataclasses.dataclass(frozen=True)
class VersionFiles:
    """The checked content of one version folder.

    Attributes:
        identity: sha256 of SHA256SUMS, hex: the model's identity.
        files: Bytes of every listed file by name.
        manifest: Parsed and validated.
    """

    identity: str
    files: dict[str, bytes]
    manifest: pb.Manifest
    _sums: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)
    _graph_sums: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)

    def sum_of(self, name: str) -> str:
        """Return the sha256, hex, of a file with its external data."""
        if name not in self._sums:
            self._sums[name] = hashlib.sha256(self.files[name]).hexdigest()
        return self._sums[name]

    def graph_sum_of(self, name: str) -> str:
        """Return a sum, hex, of an ONNX file that those of the same graph share; see alike.graph_sum."""
        if name not in self._graph_sums:
            self._graph_sums[name] = graph_sum(self.files[name])
        return self._graph_sums[name]


def read_version(folder: Path, vouch: Vouch = accept_any) -> VersionFiles:
    """Read and check a version folder that has a manifest; `vouch` may refuse it by the sha256 of its SHA256SUMS.

    Raises:
        ModelRefused: As read_listed; or the manifest is not listed or not valid.
    """
    listed = read_listed(folder, vouch)
    if MANIFEST not in listed.files:
        raise ModelRefused(f"{MANIFEST} is not listed in {SUMS}")
    return VersionFiles(listed.identity, listed.files, parse_manifest(listed.files[MANIFEST]), listed.sums)


def parse_manifest(text: bytes) -> pb.Manifest:
    """Parse and validate manifest.json.

    Raises:
        ModelRefused: It does not fit the schema, needs a later server, or a value is out of range.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise ModelRefused(f"{MANIFEST} has {len(text)} bytes, more than {MAX_MANIFEST_BYTES}")
    try:
        decoded = text.decode("utf-8")
        refuse_newer(decoded)
        manifest = json_format.Parse(decoded, pb.Manifest())
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise ModelRefused(f"{MANIFEST} does not parse: {error}") from None
    validate_manifest(manifest)
    return manifest


def dump_manifest(manifest: pb.Manifest) -> bytes:
    """Return `manifest` as the JSON text that parse_manifest reads."""
    validate_manifest(manifest)
    return (
        json_format.MessageToJson(manifest, preserving_proto_field_name=True, indent=1, sort_keys=True).encode() + b"\n"
    )


def validate_manifest(manifest: pb.Manifest) -> None:
    """Raise ModelRefused, naming the field, unless `manifest` is complete and consistent."""
    _require(
        manifest.schema_version == SCHEMA_VERSION, f"schema_version {manifest.schema_version} is not {SCHEMA_VERSION}"
    )
    _require(manifest.task in _TASKS, f"task {manifest.task} has no manifest")
    if manifest.task != pb.TASK_VIDEO_CLASSIFIER or manifest.HasField("input"):
        _validate_input(manifest.input)
    _validate_precisions(manifest)
    _validate_parity(manifest.parity)
    reference = manifest.verified_against
    _require(reference in pb.Reference.values(), f"verified_against {reference} is not known")
    for fault in (drift_fault(manifest.drift), _TASKS[manifest.task].fault(manifest)):
        _require(fault is None, str(fault))


def verified_against(manifest: pb.Manifest) -> str:
    """Return what the export was compared with: "our_reading", "user_answers" or "user_code"."""
    # Older manifests do not say it: their exporters knew nothing else.
    reference = manifest.verified_against or pb.REFERENCE_OUR_READING
    return pb.Reference.Name(reference).removeprefix("REFERENCE_").lower()


def onnx_files(manifest: pb.Manifest) -> tuple[str, ...]:
    """Name the ONNX files of a model."""
    return _TASKS[manifest.task].files(manifest)


def _validate_input(image: pb.ImageInput) -> None:
    for field in ("width", "height"):
        value = getattr(image, field)
        _require(1 <= value <= MAX_SIDE, f"input.{field} {value} is not within 1..{MAX_SIDE}")
    _require(image.resize != pb.ImageInput.RESIZE_UNSPECIFIED, "input.resize is missing")
    _require(image.filter != pb.ImageInput.FILTER_UNSPECIFIED, "input.filter is missing")
    for choice in image.DESCRIPTOR.fields:
        if choice.enum_type is not None:
            value = getattr(image, choice.name)
            _require(value in choice.enum_type.values_by_number, f"input.{choice.name} {value} is not known")
    _require(image.pixel_scale in _PIXEL_SCALES, f"input.pixel_scale {image.pixel_scale} is neither 1 nor 255")
    if image.resize == pb.ImageInput.RESIZE_SHORT_SIDE_CROP:
        side, least = image.resize_short_side, max(image.width, image.height)
        _require(least <= side <= MAX_SIDE, f"input.resize_short_side {side} is not within {least}..{MAX_SIDE}")


def _validate_precisions(manifest: pb.Manifest) -> None:
    """Check the bounds that providers are judged by: too large a bound would accept any output."""
    files = onnx_files(manifest)
    seen: set[tuple[str, int]] = set()
    for bound in manifest.precisions:
        _require(bound.file in files, f"precisions.file {bound.file[:64]!r} is none of {', '.join(files)}")
        _require_precision("precisions.precision", bound.precision)
        what = f"{bound.file} in {pb.Precision.Name(bound.precision)}"
        _require((bound.file, bound.precision) not in seen, f"precisions has two bounds for {what}")
        seen.add((bound.file, bound.precision))
        most = _MAX_FP32_DEVIATION if bound.precision == pb.PRECISION_FP32 else MAX_DEVIATION
        _require(
            0 < bound.max_deviation <= most,
            f"precisions.max_deviation {bound.max_deviation:g} of {what} is not above 0 and at most {most:g}",
        )
    for file in files:
        allowed = {precision for of, precision in seen if of == file}
        _require(bool(allowed), f"precisions allows none for {file}")
        if file in manifest.stored:
            stored = manifest.stored[file]
            _require_precision(f"stored[{file}]", stored)
            _require(allowed == {stored}, f"precisions allows others for {file} than it is stored in")


def _require_precision(field: str, precision: int) -> None:
    known = precision in pb.Precision.values() and precision != pb.PRECISION_UNSPECIFIED
    _require(known, f"{field} {precision} is not known")


def _validate_parity(report: pb.ParityReport) -> None:
    """Check that every comparison in the parity report is within its bound."""
    compared: dict[str, pb.ParityCheck | pb.Agreement] = {
        **{f"parity.checks[{i}]": check for i, check in enumerate(report.checks)},
        **{f"parity.agreements[{i}]": agreement for i, agreement in enumerate(report.agreements)},
    }
    for field, check in compared.items():
        for name in ("max_abs_difference", "max_abs_reference", "bound"):
            value = getattr(check, name)
            _require(0 <= value < math.inf, f"{field}.{name} {value:g} is not a number of 0 or more")
        difference, bound = check.max_abs_difference, check.bound
        _require(difference <= bound, f"{field}.max_abs_difference {difference:g} exceeds its bound {bound:g}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ModelRefused(f"{MANIFEST}: {message}")


class _Part(NamedTuple):
    """A task's part of a manifest: its ONNX files, and what is wrong with its message, or None."""

    files: Callable[[pb.Manifest], tuple[str, ...]]
    fault: Callable[[pb.Manifest], str | None]


def _video_files(manifest: pb.Manifest) -> tuple[str, ...]:
    present = {
        ENCODER_FILE: manifest.HasField("input"),
        SEQUENCE_FILE: True,
        STEP_FILE: len(manifest.video_classifier.states) > 0,
    }
    return tuple(name for name, is_there in present.items() if is_there)


_TASKS: Final[dict[pb.Task, _Part]] = {
    pb.TASK_CLASSIFIER: _Part(lambda _: (CLASSIFIER_FILE,), classifier_fault),
    pb.TASK_CAPTIONER: _Part(lambda _: (ENCODER_FILE, DECODER_FILE), captioner_fault),
    pb.TASK_VIDEO_CLASSIFIER: _Part(_video_files, video_fault),
}
