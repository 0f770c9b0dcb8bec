"""The captioners' entry for loading: the pair of encoder and decoder must give the golden captions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.captioning.slots import Slots, host_slots
from resonnx_server.drift.drift import Drift
from resonnx_server.inference.registry import SessionReport
from resonnx_server.inference.tasks import CAPTION
from resonnx_server.repository.captioner.decoder_check import DecoderCheck
from resonnx_server.repository.captioner.state_placement import PlacedCaptioner, place_state
from resonnx_server.repository.instances import choose
from resonnx_server.repository.reopening import Source
from resonnx_server.repository.tasks import Loaded, Prepared, TaskEntry
from resonnx_server.repository.version import repeat
from resonnx_server.repository.warming import Warming
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.decoding.sequence import Sequence as Caption
from resonnx_server.runtime.graphs import Captioner, CaptionerGraphs
from resonnx_server.runtime.model_files.golden_examples import Verdict, judge_captions
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, ENCODER_FILE
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import Array, Session, TensorSpec
from resonnx_server.runtime.tensor_view import row_bytes
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.session_pool import AnyInstanceGroup, AnySessionPool, InstanceGroup, SessionPool

# Concurrent batches may be a little slower: steps then need not wait for the encoder.
_LEAST_GAIN: Final = 0.9
# A captioner's outputs in the tensor protocol: the requested number of captions of each picture, by default one.
_OUTPUTS: Final = (
    TensorSpec("caption", np.dtype(object), ("batch",)),
    TensorSpec("log_prob", np.dtype(np.float32), ("batch",)),
)


def _run(loaded: Loaded[CaptionerGraphs], pictures: Pixels) -> list[Caption]:
    return decode_all(loaded.graphs, pictures, loaded.files.manifest.captioner)


def _judge(loaded: Loaded[CaptionerGraphs]) -> Verdict:
    return judge_captions(loaded.golden, _run(loaded, loaded.golden.images), loaded.bound)


def _prepare(loaded: Loaded[CaptionerGraphs]) -> Prepared:
    files, graphs = loaded.files, loaded.graphs
    placed = place_state(files, graphs, loaded.golden, loaded.bound)
    encoders, decoders = _instances(loaded, placed)
    reports = (
        SessionReport(ENCODER_FILE, graphs.encoder.candidate, encoders.table, encoders.max_concurrent_batches),
        SessionReport(DECODER_FILE, graphs.decoder.candidate, decoders.table),
    )
    engine = partial(
        CaptionEngine,
        files.manifest.captioner,
        encoders,
        decoders,
        placed.slots,
        picture_bytes=row_bytes(*graphs.encoder.inputs, *graphs.encoder.outputs),
        step_bytes=row_bytes(*graphs.decoder.outputs),
        drift=Drift.of(files.files, files.manifest),
    )
    return Prepared(graphs.encoder.inputs, _OUTPUTS, reports, engine)


ENTRY: Final = TaskEntry(
    CAPTION,
    examples="captions",
    has_examples=lambda golden: golden.tokens is not None and golden.log_probs is not None,
    graphs=CaptionerGraphs,
    tensors=lambda graphs: (graphs.encoder.inputs, _OUTPUTS),
    run=_run,
    judge=_judge,
    prepare=_prepare,
)


def _instances(loaded: Loaded[CaptionerGraphs], placed: PlacedCaptioner) -> tuple[AnyInstanceGroup, AnyInstanceGroup]:
    """Choose and warm up the sessions of encoder and decoder, concurrent ones if that is as fast.

    Args:
        loaded: The version, with graphs on the chosen candidates and all threads.
        placed: The same graphs, or those with states on the device.

    Raises:
        ModelRefused: A session's outputs are wrong at some batch size.
    """
    version, files, golden, chosen, bound = loaded
    slots, is_on_host = placed.slots, placed.graphs is chosen
    sources = tuple(Source.of(version, files, file) for file in (ENCODER_FILE, DECODER_FILE))

    def for_trial(*encoded: list[Any]) -> Slots[Any, Any]:
        # In host memory, separate slots: those that serve allocate memory at their first use, and few are ever full.
        return host_slots(slots.capacity, *encoded) if is_on_host else slots

    def encoding(graphs: Captioner[Any], check: DecoderCheck[Any]) -> Warming[Any]:
        def encode(session: Session, rows: int) -> tuple[list[Any], list[Any], Array | None]:
            return graphs.encode_on(session, repeat(golden, rows))

        return Warming(version, files, ENCODER_FILE, encode, check.of_encoding)

    def warmed(graphs: Captioner[Any], callers: int = 1, share: int = 0) -> tuple[AnySessionPool, AnySessionPool]:
        """Return warmed sessions of encoder and decoder; `share`: threads of each concurrent job, 0 for no others."""
        check = DecoderCheck(graphs, for_trial, golden, bound)
        encoder_costs = encoding(graphs, check).costs(graphs.encoder, version.batch_sizes, callers)
        stepping = Warming(
            version,
            files,
            DECODER_FILE,
            lambda _, rows: graphs.step(*slots.inputs(rows)),
            lambda rows, _: check.of_slots(rows),
        )
        # There is one set of slots, so steps never run concurrently.
        decoder_costs = stepping.costs(graphs.decoder, sizes_up_to(slots.capacity))
        return _pools(graphs, encoder_costs, decoder_costs, sources, share)

    # Captions that stay on a GPU have short steps: encoding and steps take turns.
    if is_on_host:
        check = DecoderCheck(chosen, for_trial, golden, bound)
        encoders = choose(encoding(chosen, check), chosen.encoder, _LEAST_GAIN)
        if encoders.max_concurrent_batches > 1:
            share = encoders.throughput_session.threads
            decoder = chosen.decoder
            if decoder.threads > share:
                decoder = Session(files.files[DECODER_FILE], decoder.candidate, share)
            count = encoders.max_concurrent_batches
            single = warmed(CaptionerGraphs(encoders.latency_session, chosen.decoder, files.manifest), 1, share)
            several = warmed(CaptionerGraphs(encoders.throughput_session, decoder, files.manifest), count, share)
            return InstanceGroup(single[0], several[0], count), InstanceGroup(single[1], several[1])
    encode, step = warmed(placed.graphs)
    return InstanceGroup.single(encode), InstanceGroup.single(step)


class _Reopened:
    """What opens the sessions of a pair of graphs again: one of them in place of another, or both if none is open.

    Args:
        graphs: The pair.
        sources: Files of encoder and decoder.
        sizes: Batch sizes of encoder and decoder.
    """

    def __init__(
        self, graphs: Captioner[Any], sources: tuple[Source, ...], sizes: tuple[Sequence[int], Sequence[int]]
    ) -> None:
        self._graphs: Captioner[Any] | None = graphs
        # As only those with states in host memory let go.
        self._opened = partial(CaptionerGraphs, manifest=graphs.manifest)
        self._is_decoder_new = False
        openers = graphs.encoder.opener(), graphs.decoder.opener()
        self._encoder, self._decoder = (
            partial(source.open_again, opener, of) for source, opener, of in zip(sources, openers, sizes, strict=True)
        )

    def let_go(self) -> None:
        """Hold no sessions."""
        self._graphs, self._is_decoder_new = None, False

    def encode(self) -> Callable[..., Any]:
        """Open the encoder again, and the decoder as well if it is not open."""
        if self._graphs is None:
            self._graphs, self._is_decoder_new = self._opened(self._encoder(), self._decoder()), True
        else:
            self._graphs = self._graphs.replaced(encoder=self._encoder())
        return self._graphs.encode_watched

    def step(self) -> Callable[..., Any]:
        """Open the decoder again, unless that was done with the encoder."""
        assert self._graphs is not None
        if not self._is_decoder_new:
            self._graphs = self._graphs.replaced(decoder=self._decoder())
        self._is_decoder_new = False
        return self._graphs.step


def _pools(
    graphs: Captioner[Any], encoder: LatencyTable, decoder: LatencyTable, sources: tuple[Source, ...], share: int
) -> tuple[AnySessionPool, AnySessionPool]:
    """Return the pools of encoder and decoder, given their latencies and files."""
    again = _Reopened(graphs, sources, (encoder.sizes, decoder.sizes))
    # States on a device are in memory that its sessions use.
    let_go = again.let_go if isinstance(graphs, CaptionerGraphs) else None
    return (
        SessionPool(graphs.encode_watched, encoder, graphs.encoder.threads > share, again.encode, let_go),
        SessionPool(graphs.step, decoder, graphs.decoder.threads > share, again.step, let_go),
    )
