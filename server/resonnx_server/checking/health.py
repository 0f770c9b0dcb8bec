"""`resonnx-server health`: asks the server on this machine whether it is ready, for probes of containers.

It loads the standard library only, as probes run every few seconds beside the server.
"""

import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

_USAGE: Final = """\
Usage: resonnx-server health [OPTION...]

Asks the server on this machine for /readyz and prints the answer.
  --config FILE  --http-port PORT  --host ADDRESS  --tls-certificate FILE
                     as the server has them
  --key-file FILE    a file with a key, if the server has keys
Options that are not given are read from the server's variables, such as RESONNX_HTTP_PORT, and from its configuration
file, RESONNX_CONFIG; the key from RESONNX_KEY. Without a key, a server that needs one counts as ready if it answers.
Exit status: 0 if the server is ready, 1 if it is not or does not answer, 2 for bad options."""
_OPTIONS: Final = ("config", "http-port", "host", "tls-certificate", "key-file")
_TIMEOUT_S: Final = 4.0
_BAD_OPTIONS: Final = 2
_OK: Final = 200
_NO_KEY: Final = (401, 403)
# The addresses of a server that listens on all of a machine.
_OF_ALL: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104
_LAST_PORT: Final = 65535


class Target(NamedTuple):
    """Where the server answers: address, port, whether it uses TLS, and the key to send ("" for none)."""

    host: str
    port: int
    tls: bool
    key: str


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the command with the arguments after its name."""
    if {"-h", "--help"} & {*arguments}:
        print(_USAGE)
        sys.exit(0)
    try:
        target = find(_options(arguments), os.environ)
    except (ValueError, OSError) as error:
        print(f"resonnx-server health: {error}", file=sys.stderr)
        sys.exit(_BAD_OPTIONS)
    ready, said = ask(target)
    print(said)
    sys.exit(not ready)


def find(options: Mapping[str, str], environment: Mapping[str, str]) -> Target:
    """Return where the server answers, from options, then variables, then the server's file.

    Raises:
        ValueError: The port is not a number from 1 to 65535, or the file is not TOML.
        OSError: A file cannot be read.
    """
    path = options.get("config") or environment.get("RESONNX_CONFIG")
    stated = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("server", {}) if path else {}

    def setting(name: str, default: str = "") -> str:
        variable = environment.get(f"RESONNX_{name.upper()}")
        return str(options.get(name.replace("_", "-")) or variable or stated.get(name, default))

    port = setting("http_port", "8002")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) <= _LAST_PORT:
        raise ValueError(f"http_port is {port!r}: give the server's port, --http-port 1 to {_LAST_PORT}")
    key = environment.get("RESONNX_KEY", "")
    if file := options.get("key-file"):
        key = Path(file).read_text(encoding="utf-8").strip()
    host = setting("host")
    return Target(_OF_ALL.get(host, host), int(port), bool(setting("tls_certificate")), key)


def ask(target: Target) -> tuple[bool, str]:
    """Return whether the server is ready, and the text of its answer or the failure. Takes at most 4 s a read."""
    if target.tls:
        import ssl

        # The peer is this machine's: names and dates of its certificate say nothing about its health.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: HTTPConnection = HTTPSConnection(target.host, target.port, timeout=_TIMEOUT_S, context=context)
    else:
        connection = HTTPConnection(target.host, target.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz", headers={"authorization": f"Bearer {target.key}"} if target.key else {})
        answer = connection.getresponse()
        said = answer.read(1 << 16).decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        return False, f"{target.host}:{target.port} does not answer: {error or type(error).__name__}"
    finally:
        connection.close()
    if answer.status in _NO_KEY and not target.key:
        return True, "alive; whether it is ready needs a key: RESONNX_KEY or --key-file"
    return answer.status == _OK, said


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """Return the options by name.

    Raises:
        ValueError: One is unknown, or has no value.
    """
    found: dict[str, str] = {}
    left = iter(arguments)
    for argument in left:
        name, given, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in _OPTIONS:
            raise ValueError(f"no such option: {argument}\n{_USAGE}")
        value = value if given else next(left, "")
        if not value:
            raise ValueError(f"--{name} needs a value")
        found[name] = value
    return found
