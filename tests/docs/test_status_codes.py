"""That every reason a call may end with is documented beside the code that it comes with."""

import re
from pathlib import Path

from resonnx_server import errors
from resonnx_server.rpc.boundary import code_of

_DOCUMENT = Path(__file__).parents[2] / "docs" / "wire-api.md"


def _kinds(kind: type[errors.ServerError]) -> list[type[errors.ServerError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _kinds(below))]


def test_the_documents_table_is_the_servers() -> None:
    rows = re.findall(r"^\| ([A-Z_]+) \| ([^|]+) \|", _DOCUMENT.read_text(), re.MULTILINE)
    documented = {(code, reason) for code, reasons in rows for reason in re.findall(r"`(\w+)`", reasons)}
    # Bases of others are never raised themselves.
    bases = (errors.Unauthenticated, errors.PermissionDenied)
    ours = [kind for kind in _kinds(errors.ServerError) if kind.__name__ in errors.__all__ and kind not in bases]
    assert documented == {(code_of(kind.__new__(kind)).name, kind.reason) for kind in ours}
