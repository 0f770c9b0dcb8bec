"""The server's life, top to bottom: start → load → ready → drain → stop. Read this first; `parts.py` makes its parts.

Ports are bound before models are loaded: a port in use is reported at once, and probes answer during the load.
"""

import asyncio
import contextlib
import gc
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any

from resonnx_server.access.reloaded import keep_fresh
from resonnx_server.config import ModelSettings, Settings
from resonnx_server.config_text import nearest
from resonnx_server.errors import ModelRefused
from resonnx_server.observe.requests.access_log import access_log
from resonnx_server.parts import Parts
from resonnx_server.readiness import Readiness
from resonnx_server.repository.choosing.turns import AT_LOAD, WHEN_IDLE
from resonnx_server.repository.control import Control
from resonnx_server.repository.known_graphs import KnownGraphs
from resonnx_server.repository.life.content import Looked
from resonnx_server.repository.life.watch import RepositoryWatch
from resonnx_server.repository.loader import load, picture_options
from resonnx_server.repository.progress import Progress
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.repository.version import Start, Version
from resonnx_server.rpc.reserved_port import ReservedPort
from resonnx_server.rpc.server import CannotListen, bracketed
from resonnx_server.runtime.model_files.signatures import BadKey, TrustedKeys
from resonnx_server.signals import StopSignals, leave

_log = logging.getLogger(__name__)

# For connections to be without calls, out of the grace period. Those of clients that always have some never are.
_MOST_VACATE_S = 5.0
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
        BadExport: Traces cannot be exported as the settings say.

    Attributes:
        left_behind: A load's thread could not be ended: the interpreter must not wait for it.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.parts = parts = Parts.of(settings)
        self.readiness = Readiness(parts.models, parts.grpc.set_serving)
        self.control = Control(settings, parts.models, self.readiness, self._load_version, parts.metrics, parts.watch)
        parts.models.control = self.control
        self.repository = RepositoryWatch(settings)
        self.known = KnownGraphs()
        self.trusted: TrustedKeys | None = None
        self.left_behind = False
        # The port of gRPC, until it takes connections.
        self._reserved: ReservedPort | None = None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; each further signal ends a step of the drain.

        Raises:
            StartError: A port is taken, the repository or a trusted key cannot be read, or no model can be served.
        """
        self.trusted = _trusted_keys(self.settings)
        found = self._scan()
        stop = StopSignals()
        try:
            # Models that are loaded serve while others load, for as long as that takes.
            self.parts.watch.start()
            self.readiness.addresses = await self._listen()
            await self._serve_until(stop.first, found)
            await self._drain(stop)
        finally:
            await self._stop()
        _log.info("stopped")

    async def _serve_until(self, stop: asyncio.Event, found: dict[str, Looked]) -> None:
        """Load models and serve them as they are loaded. A signal ends this at once, even during a load."""
        loading, stopping = asyncio.create_task(self._keep(found)), asyncio.create_task(stop.wait())
        fresh = asyncio.create_task(keep_fresh([*self.parts.policy.reloaded()]))
        try:
            await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
            await stopping
        finally:
            for task in (loading, stopping, fresh):
                task.cancel()
            await asyncio.wait({loading, stopping, fresh})

    def _scan(self) -> dict[str, Looked]:
        try:
            found = self.repository.first()
        except ModelRefused as error:
            raise StartError(error.message) from None
        there = found.keys()
        for name in sorted(self.settings.models.keys() - there):
            _log.warning(
                "settings for a model that is not there", extra={"model": name, "nearest": nearest(name, there)}
            )
        for name, settings in self.settings.models.items():
            if settings.caption_policy is not None:
                _log.warning("caption_policy is deprecated: continuous is always used", extra={"model": name})
        return self._at_start(found)

    def _at_start(self, found: dict[str, Looked]) -> dict[str, Looked]:
        """Return the models that are loaded at start."""
        if self.settings.control_mode != "explicit":
            return found
        asked = {*found} if "*" in self.settings.load_models else {*self.settings.load_models}
        for name in sorted(asked - found.keys()):
            _log.warning("load_models names a model that is not there", extra={"model": name})
        return {name: found[name] for name in asked & found.keys()}

    async def _listen(self) -> dict[str, str]:
        """Bind all ports and return the addresses by port, for the line at start."""
        host, admin = self.settings.host, self.settings.admin_port
        admin_address: dict[str, str] = {}
        try:
            if self.settings.listen_when == "loaded":
                self._reserved = await ReservedPort.of(host, self.settings.port)
                grpc_port = self._reserved.port
            else:
                grpc_port = await self.parts.grpc.start(host, self.settings.port)
            if admin is not None:
                port = await self.parts.grpc.start_admin(self.settings.admin_host, admin)
                admin_address = {"admin": f"{bracketed(self.settings.admin_host)}:{port}"}
        except CannotListen as error:
            raise StartError(str(error)) from None
        except OSError:
            raise StartError(str(CannotListen.on(host, self.settings.port))) from None
        try:
            http_port = await self.parts.probes.start(host, self.settings.http_port)
        except OSError as error:
            reason = f"{error.strerror or error} (--http-port, --host)"
            raise StartError(f"cannot listen on {host}:{self.settings.http_port} (HTTP): {reason}") from None
        at = bracketed(host)
        return {"grpc": f"{at}:{grpc_port}", "http": f"{at}:{http_port}", **admin_address}

    def _load_version(self, folder: ModelFolder, own: ModelSettings, progress: Progress) -> Start:
        if progress.is_beside:
            progress.pause = self.parts.devices.let_pass
        return load(
            Version(
                folder,
                own,
                self.parts.metrics,
                self.parts.devices.of,
                self.parts.cores,
                self.parts.cache,
                progress,
                partial(picture_options, self.settings, own),
                self.trusted,
                self.known,
                WHEN_IDLE if progress.measures_again else AT_LOAD,
            )
        )

    async def _keep(self, found: dict[str, Looked]) -> None:
        """Load models, and then what changes."""
        await self.control.begin(found)
        if not list(self.parts.models) and self.settings.control_mode == "none":
            reasons = "; ".join(f"{refusal.name}: {refusal.reason}" for refusal in self.parts.models.refused)
            raise StartError(f"no model can be served ({reasons or 'the repository holds none'})")
        _calm_garbage_collection()
        self.parts.watch.models_loaded()
        await self._open()
        self.readiness.complete()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.control.work())
            tasks.create_task(self.control.remeasuring.run())
            tasks.create_task(self.control.unused.run())
            if self.settings.control_mode == "poll":
                tasks.create_task(self.repository.run(self.control.see))

    async def _open(self) -> None:
        """Take gRPC's connections, if they were refused so far."""
        if self._reserved is None:
            return
        try:
            with self._reserved as reserved:
                await self.parts.grpc.start(self.settings.host, reserved.port)
        except CannotListen as error:
            raise StartError(str(error)) from None

    async def _drain(self, stop: StopSignals) -> None:
        """Become not ready, so that clients go elsewhere, and serve for drain_delay_s; then let requests finish.

        A signal skips the delay, and the next one ends requests under way.
        """
        _log.info("draining")
        models = self.parts.models
        models.draining = True
        self.parts.grpc.drain()
        await self.parts.comparisons.close()
        if list(models) and not stop.is_hurried:
            await _first_of(asyncio.sleep(self.settings.drain_delay_s), stop.another())
        models.closing.set()
        await _first_of(self._finish(), stop.another())

    async def _finish(self) -> None:
        """Let requests finish, and their answers be transmitted, within grace_s; then end the remaining calls."""
        now = asyncio.get_running_loop().time
        grpc, probes, grace_s = self.parts.grpc, self.parts.probes, self.settings.grace_s
        end = now() + grace_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_MOST_VACATE_S, grace_s)):
                await asyncio.gather(grpc.vacate(), probes.vacate())
        self.parts.models.refusing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                await asyncio.gather(grpc.answered(), probes.answered())
        # The remaining calls are idle, as health watches, or over time.
        flush_s = min(max(end - now(), _LEAST_FLUSH_S), _MOST_FLUSH_S)
        await asyncio.gather(grpc.stop(flush_s), probes.end_requests())

    async def _stop(self) -> None:
        self.left_behind = not await self.control.loading.end(_LAST_LOAD_S)
        await self.parts.grpc.stop(0)
        self.parts.watch.close()
        for model in self.control.serving:
            model.engine.close()
        self.parts.clips.stop()
        ended = await asyncio.gather(
            self.parts.decoder.close(_LAST_JOB_S),
            *(asyncio.to_thread(device.close, _LAST_JOB_S) for device in self.parts.devices),
        )
        await self.parts.probes.stop()
        await asyncio.to_thread(self.parts.traces.close)
        await asyncio.to_thread(access_log.close)
        if self.parts.export is not None:
            await asyncio.to_thread(self.parts.export.close)
        if not all(ended):
            _log.error("work under way does not end: leaving without it")
            leave(1)
        if any(device.abandoned() for device in self.parts.devices):
            _log.warning("runs that were given up do not end: leaving without them")
            leave(0)
        if self.left_behind:
            names = [load.folder.name for load in self.control.loading.under_way]
            _log.warning("a load does not end: leaving without it", extra={"models": names})


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Run all, and cancel the others when one has ended."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


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
