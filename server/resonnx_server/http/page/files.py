"""The page at `/`: its files as they lie in static/, open to all, as they hold no secrets; its calls need the key."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aiohttp import web

from resonnx_server.http.pages import Handler, Page

_FOLDER: Final = Path(__file__).parent / "static"
_INDEX: Final = "index.html"
_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing from elsewhere, nothing inline, no frames around it; scripts cannot make HTML of text (Trusted Types).
# `blob:` is a clip that the user chose.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Kept, and asked for again by its ETag each time.
    "Cache-Control": "no-cache",
}


def page_files() -> list[Page]:
    """Return the pages that serve the files: `/`, and `/page/NAME` for those that it loads."""
    return [
        Page("/" if path.name == _INDEX else f"/page/{path.name}", _server_of(path), None)
        for path in sorted(_FOLDER.iterdir())
        if path.suffix in _TYPES
    ]


def _server_of(path: Path) -> Handler:
    """Return a handler that answers with a file, which is read now."""
    content = path.read_bytes()
    tag = hashlib.sha256(content).hexdigest()[:32]
    headers = {**_HEADERS, "ETag": f'"{tag}"'}

    async def get(request: web.Request) -> web.Response:
        if any(each.value in (tag, "*") for each in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=content, headers={**headers, "Content-Type": _TYPES[path.suffix]})

    return get
