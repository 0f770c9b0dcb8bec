"""GET /metrics, /livez and /readyz, on the event loop that serves gRPC."""

import asyncio
import logging
import ssl
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from resonnx_server.access.gate import Gate
from resonnx_server.http.guard import guard
from resonnx_server.inference.registry import Models
from resonnx_server.observe.exposition import accepted_format, accepts_gzip, page
from resonnx_server.observe.metrics import Metrics

_PLAIN: Final = {"Content-Type": "text/plain; charset=utf-8"}
# No traceback for requests that are not HTTP, as of a gRPC client on the wrong port.
logging.getLogger("aiohttp.server").addFilter(
    lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
)


class Probes:
    """The HTTP server.

    Args:
        models: The models that /readyz reports.
        metrics: The registry that /metrics exposes.
        gate: The port's rules.
        tls: TLS of the port; None for none.
    """

    def __init__(self, models: Models, metrics: Metrics, gate: Gate, tls: ssl.SSLContext | None = None) -> None:
        self._models = models
        self._metrics = metrics
        self._tls = tls
        application = web.Application(client_max_size=1024, middlewares=[guard(gate, models.rejected)])
        application.router.add_get("/metrics", self._get_metrics)
        application.router.add_get("/livez", self._get_livez)
        application.router.add_get("/readyz", self._get_readyz)
        self._runner = web.AppRunner(application, access_log=None, keepalive_timeout=75)

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port. Raises OSError if it is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, ssl_context=self._tls).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the listener and all connections."""
        await self._runner.cleanup()

    async def _get_metrics(self, request: web.Request) -> web.Response:
        written = accepted_format(_header(request, "Accept"))
        compressed = accepts_gzip(_header(request, "Accept-Encoding"))
        # Counters are read on the event loop, with a break after each family; the page is written on a thread.
        families = []
        for family in self._metrics.registry.collect():
            families.append(family)
            await asyncio.sleep(0)
        body = await asyncio.to_thread(page, families, written, compressed=compressed)
        headers = {"Content-Type": written.value, "Vary": "Accept, Accept-Encoding"}
        if compressed:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)

    async def _get_livez(self, request: web.Request) -> web.Response:
        if self._models.is_dead:
            text = "dead: no model can serve any more; restart the server\n"
            return web.Response(text=text, status=503, headers=_PLAIN)
        return web.Response(text="alive\n", headers=_PLAIN)

    async def _get_readyz(self, request: web.Request) -> web.Response:
        refused = self._models.refused
        ready = self._models.is_ready
        lines = ["ready" if ready else self._why_not()]
        lines += [
            f"{'replacing a session of' if model.engine.is_paused else 'serving'} {model.name} version {model.version}"
            for model in self._models
        ]
        lines += [f"loading {name} version {version}" for name, version in self._models.awaited.items()]
        lines += [
            f"{'stopped' if each.was_served else 'refused'} {each.name} version {each.version}: {each.reason}"
            for each in refused
        ]
        return web.Response(text="\n".join(lines) + "\n", status=200 if ready else 503, headers=_PLAIN)

    def _why_not(self) -> str:
        if self._models.draining:
            return "not ready: shutting down"
        if self._models.loading:
            return "not ready: loading models"
        return "not ready: a model is refused" if self._models.strict else "not ready: no model serves"


def _header(request: web.Request, name: str) -> str:
    """Return a header; several of one name are joined."""
    return ",".join(request.headers.getall(name, ()))
