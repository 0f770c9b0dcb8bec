"""The server's life, top to bottom: start → load → ready → drain → stop. Read this first.

Ports are bound before models are loaded: a port in use is reported at once, and probes answer during the load.
"""

import asyncio
import contextlib
import gc
import logging
from functools import partial

from PIL import Image
from resonnx_proto.v1.manifest_pb2 import ImageInput

from resonnx_server.access.policy import Policy
from resonnx_server.access.reloaded import keep_fresh
from resonnx_server.config import Settings
from resonnx_server.config_sources import nearest
from resonnx_server.errors import ModelRefused
from resonnx_server.http.probes import Probes
from resonnx_server.inference.gauges import MemoryCollector, ServingCollector
from resonnx_server.inference.registry import Models
from resonnx_server.inference.requests import Inference
from resonnx_server.memory.budget import Budget
from resonnx_server.memory.parts import default_budget, divide
from resonnx_server.memory.watch import MemoryWatch
from resonnx_server.observe.metrics import Metrics
from resonnx_server.preprocessing.decode import Decoder
from resonnx_server.protocol.pieces import Pieces
from resonnx_server.readiness import Readiness
from resonnx_server.repository.latency_cache import LatencyCache, cache_folder
from resonnx_server.repository.loader import load, picture_options
from resonnx_server.repository.loading import Loading
from resonnx_server.repository.progress import Progress
from resonnx_server.repository.scan import ModelFolder, scan
from resonnx_server.repository.version import GPU_LANES, MAX_LANES, Start, Version
from resonnx_server.rpc.oip.servicer import InferenceServicer
from resonnx_server.rpc.server import CannotListen, ConnectionLimits, GrpcServer, bracketed
from resonnx_server.rpc.vision.servicer import VisionServicer
from resonnx_server.runtime.machine.descriptors import allowed_connections
from resonnx_server.runtime.machine.host import own_processors, usable_cores
from resonnx_server.runtime.machine.memory import resident_bytes, usable_memory
from resonnx_server.runtime.machine.processors import Processors, cores_first
from resonnx_server.runtime.model_files.signatures import BadKey, TrustedKeys
from resonnx_server.runtime.page_locked import PageLockedMemory
from resonnx_server.runtime.pictures.options import allowed_bytes, most_bytes
from resonnx_server.runtime.session import GPU_PROVIDERS
from resonnx_server.scheduling.device import Device
from resonnx_server.signals import StopSignals, leave

_log = logging.getLogger(__name__)

# Draining waits until no call was refused for so long, in at most so many checks (5 s).
_QUIET_S = 0.1
_MOST_QUIET_CHECKS = 50
# Time to transmit answers that are sent, out of the rest of the grace period: closing the connection would lose them.
# Clients that vanished never confirm them.
_LEAST_FLUSH_S = 0.5
_MOST_FLUSH_S = 5.0
# Wait for a cancelled load.
_LAST_LOAD_S = 1.0
# Wait for batches and pictures under way after their requests were ended.
_LAST_JOB_S = 5.0


class StartError(Exception):
    """The server cannot start; the message is one line for the user."""


class Server:
    """One server from start to stop.

    Raises:
        AccessFault: Keys cannot be read, or settings of access do not fit together.
        TooFewDescriptors: The limit of open files does not hold its connections.

    Attributes:
        left_behind: A load's thread could not be ended: the interpreter must not wait for it.
    """

    def __init__(self, settings: Settings) -> None:
        allowed = allowed_connections(settings.max_connections)
        self.settings = settings
        self.cores = usable_cores()
        self.models = Models(strict=settings.strict, ready_with_first=settings.ready_when == "any")
        self.metrics = Metrics()
        pictures = picture_options(settings, "", ImageInput())
        # Headers are checked against the settings' limits before Pillow, whose own limit is lower.
        Image.MAX_IMAGE_PIXELS = None
        whole = settings.memory_budget_bytes or default_budget(usable_memory(), settings.max_message_bytes)
        parts = divide(whole, most_bytes(pictures), allowed_bytes(pictures), self.cores, settings.max_message_bytes)
        self.decoder = Decoder(self.cores, parts.large, parts.small, parts.largest)
        self.budget = Budget(parts.whole, parts.decoder)
        self.metrics.registry.register(ServingCollector(self.models, self.decoder))
        self.policy = Policy(settings)
        self.metrics.registry.register(MemoryCollector(self.budget, self.decoder))
        inference, pieces = Inference(self.models, self.decoder, self.budget), Pieces()
        self.grpc = GrpcServer(
            VisionServicer(inference, settings.max_message_bytes, pieces, model_details=settings.model_details),
            InferenceServicer(inference, settings.max_message_bytes, pieces),
            settings.grpc_front,
            settings.max_message_bytes,
            ConnectionLimits(allowed.grpc, settings.max_connection_idle_s, settings.max_connection_age_s),
            self.budget,
            self.policy,
            settings.max_receive_s,
            settings.max_stream_idle_s,
            reflection=settings.reflection,
        )
        small_pictures = parts.decoder - parts.large
        self.watch = MemoryWatch(
            self.budget,
            lambda: self.decoder.large_bytes + small_pictures,
            resident_bytes,
            self.grpc.intake.evict,
            self.grpc.intake.tick,
        )
        self.probes = Probes(self.models, self.metrics, self.policy.main_gate, self.policy.python_context, allowed.http)
        self.devices: dict[str, Device] = {}
        self.cache = LatencyCache.open(cache_folder(settings.cache_dir), self.cores)
        self.readiness = Readiness(self.models, self.grpc.set_serving)
        self.loading = Loading(self._load_version, self.readiness, settings.load_timeout_s)
        self.trusted: TrustedKeys | None = None
        self.left_behind = False

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a second signal ends work under way.

        Raises:
            StartError: A port is taken, the repository or a trusted key cannot be read, or no model can be served.
        """
        self.trusted = _trusted_keys(self.settings)
        found = self._scan()
        stop = StopSignals()
        try:
            self.readiness.address = await self._listen()
            await self._serve_until(stop.first, found)
            await self._drain(stop.second)
        finally:
            await self._stop()
        _log.info("stopped")

    async def _serve_until(self, stop: asyncio.Event, found: list[ModelFolder]) -> None:
        """Load models and serve them as they are loaded. A signal ends this at once, even during a load."""
        loading, stopping = asyncio.create_task(self._load(found)), asyncio.create_task(stop.wait())
        fresh = asyncio.create_task(keep_fresh([*self.policy.reloaded()]))
        try:
            await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
            await stopping
        finally:
            for task in (loading, stopping, fresh):
                task.cancel()
            await asyncio.wait({loading, stopping, fresh})

    def _scan(self) -> list[ModelFolder]:
        try:
            found = scan(self.settings.repository)
        except ModelRefused as error:
            raise StartError(error.message) from None
        there = {item.name for item in found}
        for name in sorted(self.settings.models.keys() - there):
            _log.warning(
                "settings for a model that is not there", extra={"model": name, "nearest": nearest(name, there)}
            )
        for name, settings in self.settings.models.items():
            if settings.caption_policy is not None:
                _log.warning("caption_policy is deprecated: continuous is always used", extra={"model": name})
        return found

    async def _listen(self) -> str:
        """Bind all ports and return the addresses for the line at start."""
        host = self.settings.host
        admin, address = self.settings.admin_port, ""
        try:
            grpc_port = await self.grpc.start(host, self.settings.port)
            if admin is not None:
                port = await self.grpc.start_admin(self.settings.admin_host, admin)
                address = f" admin={bracketed(self.settings.admin_host)}:{port}"
        except CannotListen as error:
            raise StartError(str(error)) from None
        try:
            http_port = await self.probes.start(host, self.settings.http_port)
        except OSError as error:
            reason = f"{error.strerror or error} (--http-port, --host)"
            raise StartError(f"cannot listen on {host}:{self.settings.http_port} (HTTP): {reason}") from None
        return f"grpc={bracketed(host)}:{grpc_port} http={bracketed(host)}:{http_port}{address}"

    def _load_version(self, folder: ModelFolder, progress: Progress) -> Start:
        return load(
            Version(
                folder,
                self.settings.for_model(folder.name),
                self.metrics,
                self._device_for,
                self.cores,
                self.cache,
                progress,
                partial(picture_options, self.settings, folder.name),
                self.trusted,
            )
        )

    async def _load(self, found: list[ModelFolder]) -> None:
        self.readiness.expect(found)
        await self.loading.run(found)
        if not list(self.models):
            reasons = "; ".join(f"{refusal.name}: {refusal.reason}" for refusal in self.models.refused)
            raise StartError(f"no model can be served ({reasons or 'the repository holds none'})")
        _calm_garbage_collection()
        self.watch.start()
        self.readiness.complete()

    async def _drain(self, force: asyncio.Event) -> None:
        """Become not ready, so that clients go elsewhere; then let requests under way finish, unless forced."""
        _log.info("draining")
        self.models.draining = True
        self.grpc.drain()
        await self._wait_for_quiet(force)
        self.models.closing.set()
        async with asyncio.TaskGroup() as tasks:
            finishing, forced = tasks.create_task(self._finish()), tasks.create_task(force.wait())
            finishing.add_done_callback(lambda _: forced.cancel())
            forced.add_done_callback(lambda _: finishing.cancel())

    async def _wait_for_quiet(self, force: asyncio.Event) -> None:
        """Answer UNAVAILABLE until clients send their calls elsewhere.

        gRPC ends calls that it has read but not handed over with CANCELLED when it stops, which clients do not retry.
        """
        for _ in range(_MOST_QUIET_CHECKS):
            refused = self.models.refused_draining
            try:
                await asyncio.wait_for(force.wait(), _QUIET_S)
            except TimeoutError:
                if refused == self.models.refused_draining:
                    return
            else:
                return

    async def _finish(self) -> None:
        """Let requests finish, and their answers be transmitted, within grace_s; then end the remaining calls."""
        now = asyncio.get_running_loop().time
        end = now() + self.settings.grace_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                await self.grpc.answered()
        # The remaining calls are idle, as health watches, or over time.
        await self.grpc.stop(min(max(end - now(), _LEAST_FLUSH_S), _MOST_FLUSH_S))

    async def _stop(self) -> None:
        self.left_behind = not await self.loading.end(_LAST_LOAD_S)
        await self.grpc.stop(0)
        self.watch.close()
        for model in self.models:
            model.engine.close()
        ended = await asyncio.gather(
            self.decoder.close(_LAST_JOB_S),
            *(asyncio.to_thread(device.close, _LAST_JOB_S) for device in self.devices.values()),
        )
        await self.probes.stop()
        if not all(ended):
            _log.error("work under way does not end: leaving without it")
            leave(1)
        if any(device.abandoned() for device in self.devices.values()):
            _log.warning("runs that were given up do not end: leaving without them")
            leave(0)
        if self.left_behind:
            names = [load.folder.name for load in self.loading.under_way]
            _log.warning("a load does not end: leaving without it", extra={"models": names})

    def _device_for(self, provider: str) -> Device:
        """Return the device of a provider: one for all CPU providers, one for all GPU providers."""
        name = "gpu" if provider in GPU_PROVIDERS else "cpu"
        if name not in self.devices:
            self.devices[name] = (
                Device(name, GPU_LANES, allocate=PageLockedMemory().allocate)
                if name == "gpu"
                else Device(
                    name,
                    min(self.cores, MAX_LANES),
                    processors=Processors(cores_first(own_processors())),
                )
            )
        return self.devices[name]


def _trusted_keys(settings: Settings) -> TrustedKeys | None:
    try:
        return TrustedKeys.read(settings.trusted_keys) if settings.trusted_keys else None
    except BadKey as error:
        raise StartError(f"trusted_keys: {error}") from None


def _calm_garbage_collection() -> None:
    """Exclude loaded objects from garbage collection, and collect rarely: requests make few cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
