"""`resonnx bench --plan`: computes from a server's latency table how many such servers a load needs."""

import json
from collections.abc import Iterator
from pathlib import Path

from resonnx._clients.client import Client
from resonnx._transport.access import Access
from resonnx.bench.capacity import Capacity, Replica

_TIMEOUT_S = 10.0


def plan(server: str, model: str, access: Access, rate: float, p99_s: float) -> Capacity:
    """Return the replicas that a load needs, by the latency table of a server.

    Args:
        server: As `server_address` returns it.
        model: Name of the model.
        access: Key and TLS.
        rate: Requests a second, one picture each.
        p99_s: Seconds that 99 of 100 requests may take.

    Raises:
        ResonnxError: The server or the network fails, or the load cannot be planned.
    """
    with Client.of(server, access, _TIMEOUT_S) as client:
        return Capacity(Replica.of(client.model(model)), rate, p99_s)


def lines(capacity: Capacity) -> Iterator[str]:
    """Yield the lines of the plan. Raises CannotPlan."""
    replica, number = capacity.replica, capacity.replicas
    sizes = sorted(replica.times_s)
    table = ", ".join(f"{size} in {1e3 * replica.times_s[size]:.3g} ms" for size in sizes)
    lanes = _count(replica.instances, "batch", "batches")
    yield f"a server like this one ({replica.kind}) runs {lanes} at once: {table}"
    objective = f"p99 within {1e3 * capacity.p99_s:g} ms"
    yield f"it takes up to {capacity.most_rate:.4g} requests/s with {objective}"
    each = capacity.rate / number
    servers = _count(number, "server", "servers")
    expected = f"{each:.4g} requests/s each, expected p99 {1e3 * capacity.expected_p99_s:.3g} ms"
    yield f"{capacity.rate:g} requests/s need {servers}: {expected}; one more while one restarts"
    yield "computed from batch times alone: decoding of files, network and other models come on top (docs/scale.md)"


def write(file: Path, capacity: Capacity) -> None:
    """Write the plan as JSON. Raises OSError, CannotPlan."""
    replica = capacity.replica
    content = {
        "rate": capacity.rate,
        "p99_ms": 1e3 * capacity.p99_s,
        "replicas": capacity.replicas,
        "most_rate_of_replica": capacity.most_rate,
        "expected_p99_ms": 1e3 * capacity.expected_p99_s,
        "instances": replica.instances,
        "batch_ms": {str(size): 1e3 * seconds for size, seconds in sorted(replica.times_s.items())},
    }
    file.write_text(json.dumps(content, indent=2) + "\n")


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
