"""/v2/logging changes which lines are logged while the server runs, for keys of the role `admin` only."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from .....attacks.guarded import Guarded, bearer, guarded
from ....rpc.oip.extensions.test_log_settings import AS_STARTED


@pytest.fixture(scope="module")
def running(start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(start_server, tmp_path_factory.mktemp("guarded"), "core", "--admin-on-main") as guarded_server:
        yield guarded_server


def _ask(running: Guarded, key: str, body: bytes | None = None) -> tuple[int, Any]:
    """GET the settings, or change them."""
    url = f"http://{running.server.http}/v2/logging"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, dict(bearer(key))), timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def _lines_of_requests(running: Guarded) -> int:
    """How many lines tell of a request that is sent now."""
    before = running.server.log.read_text().count('"a request ended"')
    url = f"http://{running.server.http}/v2/models/doubling/infer"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, b'{"inputs": []}', dict(bearer("infer"))), timeout=20)
    return running.server.log.read_text().count('"a request ended"') - before


def test_levels_change_while_the_server_runs(running: Guarded) -> None:
    assert _ask(running, "admin") == (200, AS_STARTED)
    assert _lines_of_requests(running) == 0
    changed = AS_STARTED | {"log_verbose_level": 1, "log_info": False}
    assert _ask(running, "admin", b'{"log_verbose_level": 1, "log_info": false, "log_file": ""}') == (200, changed)
    assert _lines_of_requests(running) == 1
    assert _ask(running, "admin", b'{"log_verbose_level": 0, "log_info": true}') == (200, AS_STARTED)
    assert _lines_of_requests(running) == 0


@pytest.mark.parametrize("key", ["infer", "read"])
def test_other_keys_may_neither_read_nor_change_them(running: Guarded, key: str) -> None:
    for body in (None, b'{"log_info": false}'):
        status, told = _ask(running, key, body)
        assert (status, told["reason"]) == (403, "ROLE_MISSING")
    assert _ask(running, "admin") == (200, AS_STARTED)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"log_info": 1}', "settings['log_info']: must be a bool"),
        (b'{"log_verbose_level": -1}', "must be an integer, at least 0"),
        (b'{"log_verbose_level": 4294967296}', "must be an integer, at least 0"),
        (b'{"log_file": "/etc/passwd"}', "lines go to stderr"),
        (b'{"\\ud800": true}', "is not a setting of logs"),
        (b'{"log_info": false, "log_colour": true}', "'log_colour' is not a setting of logs"),
    ],
)
def test_what_cannot_be_set_changes_nothing(running: Guarded, body: bytes, message: str) -> None:
    status, told = _ask(running, "admin", body)
    assert status == 400
    assert message in told["error"]
    assert _ask(running, "admin") == (200, AS_STARTED)
