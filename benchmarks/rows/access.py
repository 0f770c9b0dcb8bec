"""Rows about the cost of keys and TLS."""

import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from load.generator import Generator
from load.server_process import Serving
from rows.setting import CALLERS, Setting


class Files:
    """A key and a certificate in a folder, made by `resonnx-server keys` and openssl."""

    def __init__(self, folder: Path) -> None:
        self._keys, self._key, self._chain, self._tls_key = (
            str(folder / name) for name in ("keys.toml", "key", "tls.pem", "tls.key")
        )
        new = [sys.executable, "-m", "resonnx_server", "keys", "new", "bench", "--file", self._keys]
        Path(self._key).write_text(subprocess.run(new, check=True, capture_output=True, text=True).stdout)
        made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        made += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run([*made, "-keyout", self._tls_key, "-out", self._chain], check=True, capture_output=True)

    @cached_property
    def server(self) -> list[str]:
        """Flags of a server with keys and mutual TLS. A certificate that signs itself is its own authority."""
        tls = ["--tls-certificate", self._chain, "--tls-key", self._tls_key, "--tls-client-ca", self._chain]
        return ["--keys-file", self._keys, *tls]

    @cached_property
    def client(self) -> list[str]:
        """Flags of its client."""
        return ["--key-file", self._key, "--ca", self._chain, "--cert", self._chain, "--client-key", self._tls_key]


def keys_and_tls(setting: Setting) -> float:
    """Throughput with keys and mutual TLS, as a share of that without: ResNet-18 at 32x32, one call a picture.

    The client encrypts on the same processors; the processor time of the server alone is printed.
    """
    name = setting.names["small"]
    files = setting.once_for_all("access files", lambda: Files(setting.folder))
    rates, times = [], []
    for server_flags, client_flags in (([], []), (files.server, files.client)):
        with setting.serving([name], *server_flags) as server:
            rate, time_us = _measure(server, setting.generator, name, client_flags)
        rates.append(rate)
        times.append(time_us)
    told = f"{rates[1]:.0f} of {rates[0]:.0f} answers/s; {times[1]:.0f} and {times[0]:.0f} us of the server an answer"
    print(f"  keys and mutual TLS: {told}", file=sys.stderr, flush=True)
    return rates[1] / rates[0]


def _measure(server: Serving, generator: Generator, name: str, flags: Sequence[str]) -> tuple[float, float]:
    """Return answers per second, and the server's processor time per answer in µs."""
    begin = server.processor_s
    run = generator.bench(server.grpc, name, "--concurrency", str(CALLERS["small"]), *flags)
    outcome = run["runs"][0]
    # The warm-up has the same rate.
    answers = outcome["per_s"] * (run["settings"]["seconds"] + run["settings"]["warmup_s"])
    return outcome["per_s"], (server.processor_s - begin) * 1e6 / answers
