"""Opens ONNX Runtime sessions on a given provider and precision, and lists the candidates for a file.

`run` releases the GIL and is thread-safe. A provider that cannot load raises: ONNX Runtime's fall-back to the CPU is
switched off.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import InferenceHung, ModelRefused
from resonnx_server.runtime.arenas import register
from resonnx_server.runtime.bfloat16 import BFLOAT16
from resonnx_server.runtime.c_api import FATAL_ONLY, library
from resonnx_server.runtime.cancellation import CANCELLED, Cancellation
from resonnx_server.runtime.interruption import runs_of_this_thread
from resonnx_server.runtime.machine.background import as_serving
from resonnx_server.runtime.machine.host import gpu_models
from resonnx_server.runtime.model_files.shared_weights import SharedGraph, Sharing
from resonnx_server.runtime.model_files.weights_apart import open_session
from resonnx_server.runtime.providers.cuda import load_cuda
from resonnx_server.runtime.providers.openvino import OPENVINO as OPENVINO
from resonnx_server.runtime.providers.openvino import add_openvino, has_openvino
from resonnx_server.runtime.providers.options import (
    cuda_options,
    engine_folder,
    openvino_options,
    session_options,
    tensorrt_options,
)
from resonnx_server.runtime.string_session import StringSession, as_text
from resonnx_server.runtime.tensor_view import ELEMENT_TYPES, TensorView, spec_of
from resonnx_server.runtime.tensor_view import Array as Array
from resonnx_server.runtime.tensor_view import TensorSpec as TensorSpec

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"
GPU_PROVIDERS: Final = (TENSORRT, CUDA)
# By the values of `--provider`, the fastest kind of device first.
PROVIDERS: Final = {"tensorrt": TENSORRT, "cuda": CUDA, "openvino": OPENVINO, "cpu": CPU}
# Precisions that fp32 files run in. TensorRT has no switch for TF32: its fp32 is TF32 on chips that have it.
_FP32_FILES: Final[dict[str, tuple[pb.Precision, ...]]] = {
    TENSORRT: (pb.PRECISION_FP16, pb.PRECISION_TF32),
    CUDA: (pb.PRECISION_TF32, pb.PRECISION_FP32),
    OPENVINO: (pb.PRECISION_BF16, pb.PRECISION_FP32),
    CPU: (pb.PRECISION_FP32,),
}


@dataclass(frozen=True)
class Candidate:
    """An execution provider and the precision it computes in."""

    provider: str
    precision: pb.Precision

    def __str__(self) -> str:
        return f"{self.provider}/{pb.Precision.Name(self.precision).removeprefix('PRECISION_').lower()}"


# Files in int8 hold weights that each session packs for itself.
_SHARES: Final = Candidate(CPU, pb.PRECISION_FP32)


class Session:
    """One ONNX graph on one candidate.

    Args:
        model: The ONNX file's bytes, without external data (see model_files/external_data.py): ONNX Runtime would look
            for that in the working directory.
        candidate: Provider and precision.
        threads: Threads of one run.
        spinning: Let the threads of a run spin while they wait for each other: faster where nothing else needs the
            cores.
        optimise: Whether ONNX Runtime optimises the graph; the exporter's parity check runs both ways.
        cache: Folder for the engines that TensorRT builds (minutes); None for no cache.
        view: Its inputs and outputs as callers see them; None for the graph's own.
        shares: Further sessions come (`opener`), with which it shares its weights where that is possible; or with which
            it does.

    Attributes:
        on_request: Outputs that only runs return that name them; they are not among `outputs`.
        device: The device of its tensors: "cuda" (the first GPU) or "cpu".
        ort_session: ONNX Runtime's session, for runs with IO binding (binding.py).
        overridable: Initializers that a run may override, as they are inputs of the graph as well.
        run_options: Options of runs on threads without an Interruption: those of loads; see Cancellation.

    Raises:
        ModelRefused: ONNX Runtime cannot load the graph, or the provider is not available.
    """

    def __init__(
        self,
        model: bytes,
        candidate: Candidate,
        threads: int,
        *,
        spinning: bool = False,
        optimise: bool = True,
        cache: Path | None = None,
        view: TensorView | None = None,
        shares: bool | Sharing = False,
    ) -> None:
        self.candidate = candidate
        self.threads = threads
        self.spinning = spinning
        self._optimise, self._cache = optimise, cache
        self.device = "cuda" if candidate.provider in GPU_PROVIDERS else "cpu"
        self._sharing = Sharing() if shares is True else shares or None
        options = session_options(threads, spinning=spinning, optimise=optimise)
        providers: list[tuple[str, dict[str, str]]] = []
        if candidate.provider == OPENVINO:
            add_openvino(options, providers, openvino_options(candidate.precision, threads))
        else:
            if candidate.provider == TENSORRT:
                providers.append((TENSORRT, tensorrt_options(candidate.precision, engine_folder(cache, model))))
            if candidate.provider in GPU_PROVIDERS:
                load_cuda()
                # For the nodes that TensorRT leaves over: on the CPU, their tensors would be copied there and back.
                providers.append((CUDA, cuda_options(candidate.precision)))
            providers.append((CPU, {}))
        self.run_options = ort.RunOptions()
        # A failed run raises; ONNX Runtime would print the reason as well.
        self.run_options.log_severity_level = FATAL_ONLY
        Cancellation.cover(options, partial(setattr, self.run_options, "terminate", True))
        opening = partial(open_session, model, options, providers or None, apart=candidate.provider == CPU)
        self._shared = self._share(model)
        if self._shared is not None:
            opening = partial(self._shared.open, options, providers)
        try:
            # With one thread, a run takes place on the thread that asks for it.
            self.ort_session = opening() if threads == 1 else as_serving(opening)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise ModelRefused(f"{candidate} cannot load the graph: {first_line(error)}") from error
        if candidate.provider not in self.ort_session.get_providers():
            raise ModelRefused(f"ONNX Runtime did not accept {candidate}")
        self.inputs = tuple(spec_of(node) for node in self.ort_session.get_inputs())
        self.outputs = tuple(spec_of(node) for node in self.ort_session.get_outputs())
        self._names = tuple(spec.name for spec in self.outputs)
        self.on_request: tuple[TensorSpec, ...] = ()
        register(self.ort_session, {spec.name: (spec.smallest, spec.dtype) for spec in self.inputs})
        # An initializer of a type that is not served cannot be overridden, but does no harm.
        initializers = self.ort_session.get_overridable_initializers()
        self.overridable = tuple(spec_of(node) for node in initializers if node.type in ELEMENT_TYPES)
        self._strings: StringSession | None = None
        types = {spec.dtype for spec in (*self.inputs, *self.outputs, *self.overridable)}
        has_strings = any(dtype.hasobject for dtype in types)
        self.view: TensorView | None = None
        if view is not None:
            self.show(view)
        takes_any = candidate.provider == CPU and library() is not None
        if BFLOAT16 in types and not takes_any:
            raise ModelRefused(f"{candidate} takes no tensors of bfloat16: the CPU provider does")
        if (has_strings or BFLOAT16 in types) and takes_any:
            strings = partial(StringSession, model, threads)
            self._strings = strings() if threads == 1 else as_serving(strings)
            Cancellation.cover(options, self._strings.terminate)

    def show(self, view: TensorView) -> None:
        """Take and give tensors as `view` says from now on."""
        self.view = view
        self.inputs, self.outputs, self.overridable = view.inputs, view.outputs, view.overridable
        self.on_request = view.on_request
        self._names = tuple(spec.name for spec in view.outputs)

    def return_on_request(self, output: str) -> None:
        """Return an output only if a run names it: the graph computes it anyway, and to copy it would take time."""
        found = tuple(spec for spec in self.outputs if spec.name == output)
        outputs = tuple(spec for spec in self.outputs if spec.name != output)
        self.show(TensorView(self.inputs, outputs, self.overridable, on_request=(*self.on_request, *found)))

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None, *, more: Sequence[str] = ()
    ) -> dict[str, Array]:
        """Run the graph.

        Args:
            feeds: Inputs by name. Strings are bytes objects; on providers other than the CPU's they must be UTF-8.
            outputs: Names of the outputs to return; None for all of `outputs`, in graph order.
            more: Names of outputs to return as well: of those `on_request`.

        Raises:
            InvalidInput: A string is not UTF-8.
            InferenceHung: The run was ended because it took far too long.
            ModelRefused: The model's load was cancelled.
            Exception: ONNX Runtime's exceptions, which share no base class.
        """
        runs = runs_of_this_thread()
        names = [*(self._names if outputs is None else outputs), *more]
        if self.view is not None:
            feeds = self.view.feeds(feeds)
        try:
            if self._strings is not None:
                arrays = self._strings.run(feeds, names)
            else:
                fed = {n: as_text(n, array) if array.dtype.hasobject else array for n, array in feeds.items()}
                arrays = self.ort_session.run(names, fed, runs.options if runs else self.run_options)
        except Exception:
            if runs and runs.is_over:
                raise InferenceHung from None
            if self.run_options.terminate:
                raise ModelRefused(CANCELLED) from None
            raise
        results = dict(zip(names, arrays, strict=True))
        return results if self.view is None else self.view.results(results)

    def opener(self, threads: int | None = None, *, spinning: bool | None = None) -> Callable[[bytes], "Session"]:
        """Return what opens another session of the same file, given its bytes. It does not keep this one."""
        threads, spinning = threads or self.threads, self.spinning if spinning is None else spinning
        same: dict[str, Any] = {"optimise": self._optimise, "cache": self._cache, "view": self.view}
        shares = self._sharing or False
        return partial(Session, candidate=self.candidate, threads=threads, spinning=spinning, shares=shares, **same)

    def opened_again(self, model: bytes, threads: int | None = None, *, spinning: bool | None = None) -> "Session":
        """Return another session of the same file, given its bytes. Raises as the constructor."""
        return self.opener(threads, spinning=spinning)(model)

    def _share(self, model: bytes) -> SharedGraph | None:
        """Return the graph for all sessions of the file, or None if it has no weights that they can share."""
        if self._sharing is None or self.candidate != _SHARES:
            return None

        def options() -> ort.SessionOptions:
            made = session_options(1)
            Cancellation.cover(made, lambda: None)
            return made

        return self._sharing.graph(model, options, [(CPU, {})])


def candidates(
    provider: str, allowed: Sequence[pb.Precision], stored: pb.Precision = pb.PRECISION_FP32
) -> list[Candidate]:
    """List the candidates for a graph on this machine.

    Args:
        provider: "auto", or a key of PROVIDERS.
        allowed: Precisions that the model may be computed in.
        stored: Precision of the file's weights: int8 and fp16 files run as they are.

    Raises:
        ModelRefused: The named provider is not installed, has no device, or supports no allowed precision.
    """
    if provider == "auto":
        names = [name for name in PROVIDERS.values() if _is_installed(name)]
    else:
        names = [PROVIDERS[provider]]
        if not _is_installed(names[0]):
            raise ModelRefused(f"provider {provider!r} is not installed or finds no device here")
    found = [
        Candidate(name, precision)
        for name in names
        for precision in (_FP32_FILES[name] if stored == pb.PRECISION_FP32 else (stored,))
        if precision in allowed
    ]
    if not found:
        asked = ", ".join(pb.Precision.Name(precision) for precision in allowed)
        raise ModelRefused(f"provider {provider!r} computes in none of the allowed precisions ({asked})")
    return found


def _is_installed(provider: str) -> bool:
    if provider == OPENVINO:
        return has_openvino()
    return provider in ort.get_available_providers()


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU, and ONNX Runtime can use it."""
    return _is_installed(CUDA) and bool(gpu_models())


def first_line(error: Exception) -> str:
    """Return the first line of an error of ONNX Runtime, at most 300 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
