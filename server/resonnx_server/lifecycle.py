"""The server's life, top to bottom: start → load → ready → drain → stop. Read this first.

Ports are bound before anything is loaded, so that a port in use is told at once and probes answer during the load.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor

from resonnx_server.config import Settings
from resonnx_server.config_sources import nearest
from resonnx_server.engine.device import Device
from resonnx_server.engine.model import Model, Models, Refusal
from resonnx_server.errors import ModelRefused
from resonnx_server.http.probes import Probes
from resonnx_server.intake.admission import Admission
from resonnx_server.intake.decode import Decoder
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.serving import ServingCollector
from resonnx_server.repository.cache import TableCache
from resonnx_server.repository.loader import Loader
from resonnx_server.repository.scan import Found, scan
from resonnx_server.repository.version import GPU_LANES, MAX_LANES
from resonnx_server.rpc.oip import InferenceServicer
from resonnx_server.rpc.server import GrpcServer, bracketed
from resonnx_server.rpc.vision import VisionServicer
from resonnx_server.runtime.host import compute_thread, own_processors, usable_cores
from resonnx_server.runtime.pinned import PinnedMemory
from resonnx_server.runtime.session import GPU_PROVIDERS

_log = logging.getLogger(__name__)

# Request bytes in flight, in largest messages.
_IN_FLIGHT_MESSAGES = 8
# No call for so long, and callers have seen that this server is going; it is waited for at most 5 s.
_QUIET_S = 0.1
_MOST_QUIET_CHECKS = 50
# Answers that are sent may still be on their way, and go lost with the connection: they have the rest of the grace,
# within these bounds. Callers who have gone without a word never confirm them.
_LEAST_FLUSH_S = 0.5
_MOST_FLUSH_S = 5.0
# For a batch, or a picture, that is under way when its callers are given up.
_LAST_JOB_S = 5.0


class StartError(Exception):
    """The server cannot start; the message is one line for the user."""


class Server:
    """One server from start to stop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        cores = usable_cores()
        self.models = Models(strict=settings.strict)
        self.metrics = Metrics()
        self.metrics.registry.register(ServingCollector(self.models))
        self.decoder = Decoder(threads=cores)
        admission = Admission(_IN_FLIGHT_MESSAGES * settings.max_message_bytes)
        self.grpc = GrpcServer(
            VisionServicer(self.models, self.decoder, admission, settings),
            InferenceServicer(self.models, self.decoder, admission),
            settings.max_message_bytes,
            settings.max_connection_idle_s,
        )
        self.probes = Probes(self.models, self.metrics)
        self.devices: dict[str, Device] = {}
        tables = TableCache.open(settings.cache_dir, cores)
        self.loader = Loader(settings, self.metrics, self._device_for, threads=cores, cache=tables)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a second signal ends work under way.

        Raises:
            StartError: A port is taken, the repository cannot be read, or no model can be served.
        """
        found = self._scan()
        stop = _StopSignals()
        try:
            grpc_port, http_port = await self._listen()
            await self._load(found, stop.first)
            if not stop.first.is_set():
                _calm_garbage_collection()
                host, state = bracketed(self.settings.host), "ready" if self.models.is_ready else "not ready"
                print(f"resonnx-server {state} grpc={host}:{grpc_port} http={host}:{http_port}", flush=True)
            await stop.first.wait()
            await self._drain(stop.second)
        finally:
            await self._stop()
        _log.info("stopped")

    def _scan(self) -> list[Found]:
        try:
            found = scan(self.settings.repository)
        except ModelRefused as error:
            raise StartError(error.message) from None
        there = {item.name for item in found}
        for name in sorted(self.settings.models.keys() - there):
            _log.warning(
                "settings for a model that is not there", extra={"model": name, "nearest": nearest(name, there)}
            )
        return found

    async def _listen(self) -> tuple[int, int]:
        host = self.settings.host
        try:
            grpc_port = await self.grpc.start(host, self.settings.port)
        except OSError:
            raise StartError(
                f"cannot listen on {host}:{self.settings.port} (gRPC): address in use or not ours"
            ) from None
        try:
            http_port = await self.probes.start(host, self.settings.http_port)
        except OSError as error:
            reason = error.strerror or error
            raise StartError(f"cannot listen on {host}:{self.settings.http_port} (HTTP): {reason}") from None
        return grpc_port, http_port

    async def _load(self, found: list[Found], stop: asyncio.Event) -> None:
        """Load one model after the other, in a thread: ONNX Runtime uses all cores by itself.

        Its threads inherit that thread's priority.
        """
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "load", initializer=compute_thread) as thread:
            for item in found:
                if stop.is_set():
                    return
                try:
                    start = await loop.run_in_executor(thread, self.loader.load, item)
                    self._serve(start())
                except ModelRefused as refused:
                    self._refuse(item, refused.message)
                except Exception:
                    # One model's unforeseen failure must not keep the others from serving.
                    _log.exception("a model could not be loaded", extra={"model": item.name})
                    self._refuse(item, "could not be loaded; the server's log has the details")
        self.models.loading = False
        names = [model.name for model in self.models]
        if not names:
            reasons = "; ".join(f"{refusal.name}: {refusal.reason}" for refusal in self.models.refused)
            raise StartError(f"no model can be served ({reasons or 'the repository holds none'})")
        not_served = [refusal.name for refusal in self.models.refused]
        self.grpc.set_serving(names, not_served, ready=self.models.is_ready)

    def _serve(self, model: Model) -> None:
        self.models.add(model)
        candidates = {report.file: str(report.candidate) for report in model.sessions}
        _log.info("serving", extra={"model": model.name, "version": model.version, "candidates": candidates})

    def _refuse(self, found: Found, reason: str) -> None:
        self.models.refuse(Refusal(found.name, found.version, reason))
        _log.error("refused", extra={"model": found.name, "version": found.version, "reason": reason})

    async def _drain(self, force: asyncio.Event) -> None:
        """Not ready first, so that nobody sends more; then let work under way finish, unless forced."""
        _log.info("draining")
        self.models.draining = True
        self.grpc.drain()
        await self._wait_for_quiet(force)
        self.models.closing.set()
        async with asyncio.TaskGroup() as tasks:
            letting_go, forced = tasks.create_task(self._let_go()), tasks.create_task(force.wait())
            letting_go.add_done_callback(lambda _: forced.cancel())
            forced.add_done_callback(lambda _: letting_go.cancel())

    async def _wait_for_quiet(self, force: asyncio.Event) -> None:
        """Go on answering UNAVAILABLE until callers have turned elsewhere.

        gRPC ends calls that it has read but not yet handed over with CANCELLED when it stops, which callers do not
        take as a reason to go elsewhere.
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

    async def _let_go(self) -> None:
        """Let work under way finish within grace_s, and answers reach their callers; then end what is left."""
        now = asyncio.get_running_loop().time
        end = now() + self.settings.grace_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                await self.grpc.answered()
        # What is open now is idle (health watches, say), or has had its time.
        await self.grpc.stop(min(max(end - now(), _LEAST_FLUSH_S), _MOST_FLUSH_S))

    async def _stop(self) -> None:
        await self.grpc.stop(0)
        for model in self.models:
            model.engine.close()
        ended = await asyncio.gather(
            self.decoder.close(_LAST_JOB_S),
            *(asyncio.to_thread(device.close, _LAST_JOB_S) for device in self.devices.values()),
        )
        await self.probes.stop()
        if not all(ended):
            # A thread inside ONNX Runtime or a codec cannot be ended from outside, and would be run over by the
            # interpreter's end.
            _log.error("work under way does not end: leaving without it")
            logging.shutdown()
            os._exit(1)

    def _device_for(self, provider: str) -> Device:
        """One device an accelerator: the CPU's providers share the CPU, a GPU's the GPU."""
        name = "gpu" if provider in GPU_PROVIDERS else "cpu"
        if name not in self.devices:
            self.devices[name] = (
                Device(name, GPU_LANES, allocate=PinnedMemory().allocate)
                if name == "gpu"
                else Device(name, min(self.loader.threads, MAX_LANES), processors=own_processors())
            )
        return self.devices[name]


def _calm_garbage_collection() -> None:
    """Leave what was loaded out of all later collections, and collect rarely: requests make few cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


class _StopSignals:
    """SIGTERM and SIGINT: `first` asks to drain, `second` not to wait any longer."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()
