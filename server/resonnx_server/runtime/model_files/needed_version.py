"""The lowest server version that reads a manifest, which later exporters name so that earlier servers can tell it."""

import json
import re
from typing import Final

from resonnx_server import __version__
from resonnx_server.errors import ModelRefused

# The first release whose server reads all fields and values that today's exporter writes. tests/upgrades fails when the
# manifest's fields change and this does not.
NEEDED_SERVER: Final = "0.1.0"
_VERSION: Final = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})")


def refuse_newer(manifest: str) -> None:
    """Raise ModelRefused if the text of a manifest names a server version above this server's.

    It is called before the manifest is parsed, which would fail at the first unknown field. A text that is not a JSON
    object, or names no version, passes: the parser's own error follows.
    """
    try:
        content = json.loads(manifest)
    except (ValueError, RecursionError):
        return
    if not isinstance(content, dict):
        return
    needed = _numbers(content.get("needs_server"))
    if needed is not None and needed > (_numbers(__version__) or needed):
        version = ".".join(map(str, needed))
        raise ModelRefused(
            f"the manifest needs resonnx-server {version} or later, and this is {__version__}: update the server, "
            f"or export again with resonnx-export {__version__}"
        )


def _numbers(version: object) -> tuple[int, int, int] | None:
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))
