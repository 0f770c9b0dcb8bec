"""What the port's rules know of each page."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from aiohttp import web

from resonnx_server.access.caller import Role

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        path: Its path, as aiohttp's router writes it.
        handler: Answers requests.
        role: What a caller needs; None for a page that is open to all.
        most_bytes: Limit of the body that is posted to it; 0 for a page that is read.
        is_json: Its refusals are JSON.
    """

    path: str
    handler: Handler
    role: Role | None = Role.READ
    most_bytes: int = 0
    is_json: bool = False


class Pages:
    """The pages of a port, by request."""

    def __init__(self, pages: Iterable[Page]) -> None:
        # By path, and whether it is posted to.
        self._pages: Mapping[tuple[str, bool], Page] = {(page.path, page.most_bytes > 0): page for page in pages}

    def of(self, request: web.Request) -> Page | None:
        """Return the page that a request is for; None for an unknown one, and for a method that the page has not."""
        resource = request.match_info.route.resource
        return None if resource is None else self._pages.get((resource.canonical, request.method == "POST"))

    def add_to(self, application: web.Application) -> None:
        """Serve the pages."""
        for page in self._pages.values():
            if page.most_bytes:
                application.router.add_post(page.path, page.handler, expect_handler=_expected)
            else:
                application.router.add_get(page.path, page.handler)


async def _expected(request: web.Request) -> None:
    """Leave `100 Continue` to whoever receives the body: not before the caller is admitted."""
