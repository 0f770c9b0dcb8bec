"""Maps errors to HTTP statuses and JSON."""

import math
from typing import Any, Final

from aiohttp import web

from resonnx_server import errors
from resonnx_server.http.rest.json_text import JSON, to_json
from resonnx_server.observe.requests.identity import IDENTITY

# For other classes, the entry of the nearest base class counts.
_STATUSES: Final[dict[type[errors.ServerError], int]] = {
    errors.InvalidInput: 400,
    errors.UnreadableMessage: 400,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.TooSlow: 408,
    errors.MessageTooLarge: 413,
    errors.ClipTooCostly: 413,
    # An encoding of bodies.
    errors.NotSupported: 415,
    errors.NoHeatmaps: 501,
    errors.RateLimited: 429,
    errors.Overloaded: 503,
    errors.Unavailable: 503,
    errors.ModelRefused: 503,
    errors.SlowReader: 503,
    errors.DeadlineExceeded: 504,
    errors.ServerError: 500,
}
# For clients of a server that is about to go.
_UNAVAILABLE_S: Final = 1


def status_of(error: errors.ServerError) -> int:
    """Return the HTTP status of an error."""
    return next(_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES)


def body_of(error: errors.ServerError) -> dict[str, Any]:
    """Return an error as JSON: `error`, `reason`, `request_id`, and where they apply `field` and `retry_after_ms`."""
    body: dict[str, Any] = {"error": error.message, "reason": error.reason}
    if (identity := IDENTITY.get()) is not None:
        identity.reason = error.reason
        body["request_id"] = identity.id
    if isinstance(error, errors.InvalidInput):
        body["field"] = error.field
    if isinstance(error, errors.Overloaded):
        body["retry_after_ms"] = error.retry_after_ms
    return body


def failure(error: errors.ServerError) -> web.Response:
    """Return the answer to a request that failed."""
    headers = {}
    if isinstance(error, errors.Overloaded):
        # In whole seconds.
        headers["Retry-After"] = str(math.ceil(error.retry_after_ms / 1000))
    elif isinstance(error, errors.Unavailable):
        headers["Retry-After"] = str(_UNAVAILABLE_S)
    elif isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    response = json_response(body_of(error), status_of(error), headers)
    if isinstance(error, errors.Unavailable):
        # The next connection may lead to another server.
        response.force_close()
    return response


def json_response(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON answer."""
    return web.Response(body=to_json(body), status=status, headers={**JSON, **(headers or {})})
