"""The parts that a server is made of, made from its settings."""

from dataclasses import dataclass, replace
from typing import Self

from PIL import Image
from resonnx_proto.v1.manifest_pb2 import ImageInput

from resonnx_server import __version__
from resonnx_server.access.policy import Policy
from resonnx_server.comparison.collector import ComparisonCollector
from resonnx_server.comparison.comparisons import Comparisons
from resonnx_server.comparison.report import Reports
from resonnx_server.config import ModelSettings, Settings
from resonnx_server.devices import Devices
from resonnx_server.drift.collector import DriftCollector
from resonnx_server.http.page.files import page_files
from resonnx_server.http.probes import Probes
from resonnx_server.http.rest.rest import Rest
from resonnx_server.inference.gauges.devices import DeviceCollector
from resonnx_server.inference.gauges.memory import MemoryCollector
from resonnx_server.inference.gauges.models import ServingCollector
from resonnx_server.inference.gauges.videos import VideoCollector
from resonnx_server.inference.registry import Models
from resonnx_server.inference.requests import Inference
from resonnx_server.memory.budget import Budget
from resonnx_server.memory.division import Division, default_budget, divide
from resonnx_server.memory.regions import Regions
from resonnx_server.memory.watch import MemoryWatch
from resonnx_server.observe.certificate import CertificateCollector
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.requests.access_log import access_log
from resonnx_server.observe.spans.export import Export, otlp
from resonnx_server.observe.spans.tracer import tracer
from resonnx_server.observe.tracing import Frontend, Traces
from resonnx_server.preprocessing.clips.decode import ClipDecoder
from resonnx_server.preprocessing.decode import Decoder
from resonnx_server.protocol.comparisons import ComparisonStatus
from resonnx_server.protocol.oip.statistics import Statistics
from resonnx_server.protocol.pieces import Pieces
from resonnx_server.repository.latency_cache import LatencyCache, cache_folder
from resonnx_server.repository.loader import picture_options
from resonnx_server.rpc.comparisons import RepositoryServicer
from resonnx_server.rpc.oip.extensions.repository import RepositoryRpcs
from resonnx_server.rpc.oip.extensions.statistics import StatisticsRpc
from resonnx_server.rpc.oip.servicer import InferenceServicer
from resonnx_server.rpc.server import ConnectionLimits, GrpcServer
from resonnx_server.rpc.vision.servicer import VisionServicer
from resonnx_server.runtime.arenas import shrink_arenas
from resonnx_server.runtime.machine.descriptors import allowed_connections
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.machine.memory import resident_bytes, usable_memory
from resonnx_server.runtime.pictures.options import allowed_bytes, most_bytes
from resonnx_server.scheduling.session_pool import free_buffers


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server is made of. Nothing of it listens or loads yet.

    Attributes:
        cores: Processors that it may use.
        models: The registry, empty.
        metrics: Counters, and all other metrics that /metrics shows.
        comparisons: Comparisons of versions.
        policy: Keys, certificates and the rights of callers.
        budget: The memory of requests.
        decoder: Decodes pictures on its own threads.
        clips: Decodes clips on the same threads.
        grpc: The gRPC server.
        probes: The HTTP server.
        watch: Compares the process's memory with the budget.
        devices: The devices that models run on, none yet.
        cache: Latency tables of former starts.
        traces: Traces of requests.
        export: Of distributed traces; None for none.
    """

    cores: int
    models: Models
    metrics: Metrics
    comparisons: Comparisons
    policy: Policy
    budget: Budget
    decoder: Decoder
    clips: ClipDecoder
    grpc: GrpcServer
    probes: Probes
    watch: MemoryWatch
    devices: Devices
    cache: LatencyCache
    traces: Traces
    export: Export | None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Make the parts.

        Raises:
            AccessFault: Keys cannot be read, or settings of access do not fit together.
            TooFewDescriptors: The limit of open files does not hold the connections.
            BadExport: Traces cannot be exported as the settings say.
        """
        export = otlp(__version__) if settings.tracing == "otlp" else None
        tracer.use(export)
        if settings.access_log:
            access_log.start()
        allowed = allowed_connections(settings.max_connections, settings.max_http_connections)
        cores = usable_cores()
        models = Models(strict=settings.strict, ready_with_first=settings.ready_when == "any")
        metrics = Metrics(predictions=settings.prediction_metrics)
        division = _division(settings, cores)
        decoder = Decoder(cores, division.large, division.small, division.largest)
        budget = Budget(division.whole, division.decoder)
        regions = Regions(settings.system_shared_memory_bytes)
        metrics.registry.register(ServingCollector(models, decoder, names_certificates=settings.keys_file is not None))
        metrics.registry.register(DriftCollector(lambda: ((m.name, m.version, m.engine.drift) for m in models)))
        metrics.registry.register(MemoryCollector(budget, decoder, regions))
        metrics.registry.register(DeviceCollector(models))
        metrics.registry.register(VideoCollector(models))
        policy = Policy(settings)
        if (certificates := policy.certificates) is not None:
            metrics.registry.register(CertificateCollector(lambda: certificates.value.expires_s))
        limits = ConnectionLimits(allowed.grpc, settings.max_connection_idle_s, settings.max_connection_age_s)
        traces = Traces(settings.trace_dir, settings.trace_max_bytes)
        reports = None if settings.comparison_reports is None else Reports(settings.comparison_reports)
        comparisons = Comparisons(
            models, budget, settings.keep_disagreements, None if reports is None else reports.write
        )
        metrics.registry.register(ComparisonCollector(comparisons))
        clips = ClipDecoder(decoder)
        inference = Inference(models, decoder, budget, traces=traces, comparing=comparisons, clips=clips)
        statistics = Statistics(models, metrics)
        grpc = _grpc(settings, inference, comparisons, limits, budget, policy, metrics, statistics, regions)
        small_pictures = division.decoder - division.large
        return cls(
            cores=cores,
            models=models,
            metrics=metrics,
            comparisons=comparisons,
            policy=policy,
            budget=budget,
            decoder=decoder,
            clips=clips,
            grpc=grpc,
            probes=Probes(
                models,
                metrics,
                policy.main_gate,
                policy.python_context,
                allowed.http,
                _rest(settings, inference, statistics, ComparisonStatus(comparisons)),
                page_files() if settings.rest and settings.page else (),
            ),
            watch=MemoryWatch(
                budget,
                lambda: decoder.large_bytes + small_pictures,
                resident_bytes,
                grpc.intake.evict,
                grpc.intake.tick,
                _shrink,
                unclaimed=grpc.unclaimed,
            ),
            devices=Devices(cores),
            traces=traces,
            export=export,
            cache=LatencyCache.open(cache_folder(settings.cache_dir), cores),
        )


def _shrink() -> None:
    """Free the memory that is kept for later runs."""
    free_buffers()
    shrink_arenas()


def _division(settings: Settings, cores: int) -> Division:
    """Divide the memory budget."""
    pictures = picture_options(settings, ModelSettings(), ImageInput())
    # Headers are checked against the settings' limits before Pillow, whose own limit is lower.
    Image.MAX_IMAGE_PIXELS = None
    whole = settings.memory_budget_bytes or default_budget(usable_memory(), settings.max_message_bytes)
    return divide(whole, most_bytes(pictures), allowed_bytes(pictures), cores, settings.max_message_bytes)


def _rest(
    settings: Settings, inference: Inference, statistics: Statistics, comparisons: ComparisonStatus
) -> Rest | None:
    """Return the pages of the HTTP port that infer, unless they are off."""
    if not settings.rest:
        return None
    most, open_health = settings.max_message_bytes, settings.open_health
    inference = replace(inference, frontend=Frontend.HTTP)
    return Rest(inference, statistics, comparisons, most, settings.max_receive_s, open_health=open_health)


def _grpc(
    settings: Settings,
    inference: Inference,
    comparisons: Comparisons,
    limits: ConnectionLimits,
    budget: Budget,
    policy: Policy,
    metrics: Metrics,
    statistics: Statistics,
    regions: Regions,
) -> GrpcServer:
    pieces = Pieces()
    return GrpcServer(
        VisionServicer(inference, settings.max_message_bytes, pieces, model_details=settings.model_details),
        InferenceServicer(
            inference,
            settings.max_message_bytes,
            pieces,
            regions,
            [
                StatisticsRpc(statistics),
                RepositoryRpcs(inference.models, is_explicit=settings.control_mode == "explicit"),
            ],
        ),
        RepositoryServicer(comparisons, ComparisonStatus(comparisons), inference.models),
        settings.grpc_front,
        settings.max_message_bytes,
        limits,
        budget,
        policy,
        settings.max_receive_s,
        settings.max_stream_idle_s,
        reflection=settings.reflection,
        counts=metrics.connections,
        traces=inference.traces,
    )
