"""A captioner whose states and features stay on the device: tokens go up each step, and the best tokens come down."""

from collections.abc import Mapping, Sequence

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.binding import DeviceTensor, run_bound
from resonnx_server.runtime.graphs import Captioner, CaptionerGraphs
from resonnx_server.runtime.model_files.manifest import FEATURE_ROWS_FILE, STATE_ROWS_FILE
from resonnx_server.runtime.session import CPU, CUDA, GPU_PROVIDERS, Array, Candidate, Session

_INDEX = "index"


class DeviceStateGraphs(Captioner[DeviceTensor]):
    """The graphs of a captioner, run so that what a run gives and the next one takes is not copied.

    Args:
        graphs: The captioner, its sessions on one device.
    """

    def __init__(self, graphs: CaptionerGraphs) -> None:
        super().__init__(graphs.encoder, graphs.decoder, graphs.manifest)

    def _run(
        self,
        session: Session,
        host: Mapping[str, Array],
        given: Mapping[str, DeviceTensor],
        fetched: Sequence[str],
        kept: Sequence[str],
    ) -> tuple[Mapping[str, Array], Mapping[str, DeviceTensor]]:
        return run_bound(session, host, given, fetched, kept)


class RowGraph:
    """state_rows.onnx or feature_rows.onnx: puts rows of tensors into another order, on their device.

    NAME [rows, ...] and joined_NAME [joined, ...] of each tensor, and index int64 [R] -> next_NAME [R, ...]: the rows
    of both, one after the other, that the index names.

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
            raise ModelRefused(f"a graph that orders rows has tensors {sorted(found)}, not those of {self._names}")

    def __call__(
        self, current: Sequence[DeviceTensor], joined: Sequence[DeviceTensor], index: Array
    ) -> list[DeviceTensor]:
        """Return the rows that `index` int64 [R] names: 0 is the first of `current`, what is beyond is of `joined`."""
        given = dict(zip(self._names, current, strict=True))
        given.update(zip(self._joined, joined, strict=True))
        _, kept = run_bound(self.session, {_INDEX: index}, given, (), self._outputs)
        return [kept[name] for name in self._outputs]


def open_row_graphs(files: Mapping[str, bytes], graphs: CaptionerGraphs) -> tuple[RowGraph, RowGraph | None]:
    """Open the graphs that order the rows of states and of features (None where there are none) beside a captioner's.

    Args:
        files: The version's, by name.
        graphs: The captioner.

    Raises:
        ModelRefused: The version has none (it is of an earlier export), they do not load, or do not fit.
    """

    def opened(file: str, names: Sequence[str]) -> RowGraph:
        if file not in files:
            raise ModelRefused(f"the version has no {file}")
        # TensorRT has nothing to make faster in them.
        provider = CUDA if graphs.decoder.candidate.provider in GPU_PROVIDERS else CPU
        return RowGraph(Session(files[file], Candidate(provider, pb.PRECISION_FP32), graphs.decoder.threads), names)

    features = opened(FEATURE_ROWS_FILE, graphs.feature_names) if graphs.feature_names else None
    return opened(STATE_ROWS_FILE, graphs.state_names), features
