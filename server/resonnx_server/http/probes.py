"""The HTTP port, on the event loop that serves gRPC: /metrics, /livez, /readyz, REST, and the page for people."""

import logging
import ssl
from collections.abc import Iterator, Sequence
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from resonnx_server.access.caller import Caller
from resonnx_server.access.gate import Gate
from resonnx_server.http.connection import IDLE_S
from resonnx_server.http.guard import CALLER, guard
from resonnx_server.http.limits import limits
from resonnx_server.http.listener import Listener
from resonnx_server.http.metrics_pages import MetricsPages
from resonnx_server.http.pages import Page, Pages
from resonnx_server.http.rest.rest import Rest
from resonnx_server.inference.registry import Models
from resonnx_server.observe.exposition import Sight, accepted_format, accepts_gzip
from resonnx_server.observe.metrics import Metrics

_PLAIN: Final = {"Content-Type": "text/plain; charset=utf-8"}
# Of a request: bytes of its first line and of a header, headers, and seconds for a body that is not read.
_SIZES: Final[dict[str, Any]] = {"max_line_size": 2048, "max_field_size": 4096, "max_headers": 64, "lingering_time": 0}
# For requests that are under way at the end.
_LAST_PAGES_S: Final = 2.0
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
        most: Connections at a time.
        rest: The pages that infer; None for none.
        files: The page for people, by its files.
    """

    def __init__(
        self,
        models: Models,
        metrics: Metrics,
        gate: Gate,
        tls: ssl.SSLContext | None = None,
        most: int = 64,
        rest: Rest | None = None,
        files: Sequence[Page] = (),
    ) -> None:
        self._models = models
        self._pages = MetricsPages(metrics)
        self._tls = tls
        self._most = most
        self._listener: Listener | None = None
        self._rest = rest
        pages = Pages(
            [
                Page("/metrics", self._get_metrics),
                Page("/livez", self._get_livez, None),
                Page("/readyz", self._get_readyz),
                *(rest.pages if rest is not None else ()),
                *files,
            ]
        )
        # The first is the outermost.
        rules = [limits(lambda: self._listener, pages), guard(gate, models.rejected, pages)]
        application = web.Application(client_max_size=1024, middlewares=rules)
        pages.add_to(application)
        application.on_response_prepare.append(self._ask_to_reconnect)
        # A handler is cancelled when its client goes.
        self._runner = web.AppRunner(
            application,
            access_log=None,
            keepalive_timeout=IDLE_S,
            handler_cancellation=True,
            auto_decompress=False,
            shutdown_timeout=_LAST_PAGES_S,
            **_SIZES,
        )

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port. Raises OSError if it is taken."""
        await self._runner.setup()
        assert self._runner.server is not None
        self._listener = Listener(self._runner.server, self._most, self._tls)
        return await self._listener.start(host, port)

    async def vacate(self) -> None:
        """Accept no more connections, and end each when it runs no request; wait until none does."""
        if self._listener is not None:
            await self._listener.vacate()

    async def answered(self) -> None:
        """Wait until the answers of the present requests to pages that infer are sent."""
        if self._rest is not None:
            await self._rest.answered()

    async def end_requests(self) -> None:
        """End the requests to pages that infer: they are answered that the server stops."""
        if self._rest is not None:
            await self._rest.end()

    async def stop(self) -> None:
        """End requests, and close the listener and all connections."""
        if self._listener is not None:
            await self._listener.stop()
        await self.end_requests()
        await self._runner.cleanup()

    async def _ask_to_reconnect(self, request: web.Request, response: web.StreamResponse) -> None:
        """Close the connection after an answer while the server stops, so that the next request may go elsewhere."""
        if self._models.draining:
            response.force_close()
            response.headers["Connection"] = "close"

    async def _get_metrics(self, request: web.Request) -> web.Response:
        written = accepted_format(_header(request, "Accept"))
        compressed = accepts_gzip(_header(request, "Accept-Encoding"))
        caller = CALLER.get()
        sight = None if caller.models is None else Sight(caller.models, caller.name)
        body = await self._pages.page(written, sight, compressed=compressed)
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
        ready = self._models.is_ready
        lines = ["ready" if ready else self._why_not(), *self._states(CALLER.get())]
        return web.Response(text="\n".join(lines) + "\n", status=200 if ready else 503, headers=_PLAIN)

    def _states(self, caller: Caller) -> Iterator[str]:
        """Yield a line for each version that the caller may use, and for each state how many other models have it."""
        others: dict[str, set[str]] = {}
        for state, name, rest in self._versions():
            if caller.may_use(name):
                yield f"{state} {name} {rest}"
            else:
                others.setdefault(state, set()).add(name)
        for state, names in others.items():
            yield f"{state} {len(names)} other model{'s' if len(names) > 1 else ''}"

    def _versions(self) -> Iterator[tuple[str, str, str]]:
        """Yield each version's state, the model's name, and the version with what there is to say of it."""
        for model in self._models:
            state = "unloaded" if model.engine.is_unloaded else "serving"
            state = "replacing a session of" if model.engine.is_paused else state
            yield state, model.name, f"version {model.version}"
        for name, version in self._models.awaited:
            yield "loading", name, f"version {version}"
        for each in self._models.refused:
            state = "stopped" if each.was_served else "refused"
            yield state, each.name, f"version {each.version}: {each.reason}"

    def _why_not(self) -> str:
        if self._models.draining:
            return "not ready: shutting down"
        if self._models.loading:
            return "not ready: loading models"
        return "not ready: a model is refused" if self._models.strict else "not ready: no model serves"


def _header(request: web.Request, name: str) -> str:
    """Return a header; several of one name are joined."""
    return ",".join(request.headers.getall(name, ()))
