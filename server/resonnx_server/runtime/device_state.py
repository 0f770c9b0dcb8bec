"""A captioner whose states and features stay on the device: a step copies only token ids to and from it."""

from collections.abc import Mapping, Sequence

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.binding import DeviceTensor, run_bound
from resonnx_server.runtime.graphs import Captioner, CaptionerGraphs
from resonnx_server.runtime.model_files.manifest import FEATURE_ROWS_FILE, STATE_ROWS_FILE
from resonnx_server.runtime.session import CPU, CUDA, GPU_PROVIDERS, Array, Candidate, Session

_INDEX = "index"


def with_device_state(graphs: CaptionerGraphs) -> Captioner[DeviceTensor]:
    """Return the captioner with states and features in device memory; both sessions are on one device."""
    return Captioner(graphs.encoder, graphs.decoder, graphs.manifest, run_bound)


class RowGraph:
    """state_rows.onnx or feature_rows.onnx: gathers rows of tensors on their device.

    For each tensor, NAME [rows, ...], joined_NAME [joined, ...] and index int64 [R] -> next_NAME [R, ...]: the rows
    at `index` of the concatenation of both.

    Args:
        session: The graph.
        names: The tensors, in order.

    Raises:
        ModelRefused: The graph has other inputs or outputs.
    """

    def __init__(self, session: Session, names: Sequence[str]) -> None:
        self.session = session
        self._names = list(names)
        self._joined = [f"joined_{name}" for name in names]
        self._outputs = [f"next_{name}" for name in names]
        found = {spec.name for spec in session.inputs} | {spec.name for spec in session.outputs}
        if found != {_INDEX, *self._names, *self._joined, *self._outputs}:
            raise ModelRefused(f"a row graph has tensors {sorted(found)}, expected those of {self._names}")

    def __call__(
        self, current: Sequence[DeviceTensor], joined: Sequence[DeviceTensor], index: Array
    ) -> list[DeviceTensor]:
        """Return the rows at `index` int64 [R] of `current` followed by `joined`."""
        given = dict(zip(self._names, current, strict=True))
        given.update(zip(self._joined, joined, strict=True))
        _, kept = run_bound(self.session, {_INDEX: index}, given, (), self._outputs)
        return [kept[name] for name in self._outputs]


def open_row_graphs(files: Mapping[str, bytes], graphs: CaptionerGraphs) -> tuple[RowGraph, RowGraph | None]:
    """Open the row graphs of states and of features (None if the captioner has no features).

    Args:
        files: The version's files by name.
        graphs: The captioner.

    Raises:
        ModelRefused: The version has no row graphs (an earlier export), or they do not load or do not fit.
    """

    def opened(file: str, names: Sequence[str]) -> RowGraph:
        if file not in files:
            raise ModelRefused(f"the version has no {file}")
        # TensorRT would gain nothing here.
        provider = CUDA if graphs.decoder.candidate.provider in GPU_PROVIDERS else CPU
        return RowGraph(Session(files[file], Candidate(provider, pb.PRECISION_FP32), graphs.decoder.threads), names)

    features = opened(FEATURE_ROWS_FILE, graphs.feature_names) if graphs.feature_names else None
    return opened(STATE_ROWS_FILE, graphs.state_names), features
