"""Answers to requests that are refused before their page is asked."""

from typing import Final

from aiohttp import web

from resonnx_server.errors import ServerError, Unauthenticated
from resonnx_server.http.pages import Page
from resonnx_server.http.rest.body import discard
from resonnx_server.http.rest.failures import failure, json_response

_JSON_PATHS: Final = ("/v1/", "/v2/")


async def refused(request: web.Request, page: Page | None, error: ServerError) -> web.Response:
    """Return the answer to a request without the key or the role for a page."""
    if page is not None and page.most_bytes:
        await discard(request)
    if is_json(request, page):
        return failure(error)
    is_unknown = isinstance(error, Unauthenticated)
    headers = {"WWW-Authenticate": "Bearer"} if is_unknown else {}
    return web.Response(status=401 if is_unknown else 403, text=f"{error.reason}: {error.message}\n", headers=headers)


def closed(
    request: web.Request, page: Page | None, status: int, text: str, headers: dict[str, str] | None = None
) -> web.Response:
    """Return an answer after which the connection is closed, as the rest of the request is not read."""
    if is_json(request, page):
        response = json_response({"error": text}, status, headers)
    else:
        response = web.Response(status=status, text=f"{text}\n", headers=headers)
    response.force_close()
    return response


def is_json(request: web.Request, page: Page | None) -> bool:
    """Whether a request's refusal is JSON."""
    return page.is_json if page is not None else request.path == "/v2" or request.path.startswith(_JSON_PATHS)
