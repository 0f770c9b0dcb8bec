"""Closed loops of callers that send pictures by HTTP or gRPC: a process of its own, the same for every server.

    PYTHONPATH=benchmarks python -m peers.load REQUEST.json

Prints an Outcome. Requests are made before anything is timed. Over HTTP each caller has a connection that it keeps;
over gRPC all share one channel.
"""

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import grpc
from peers.messages import message, post, stub_call

# How long the last answers may take.
_PATIENCE_S: Final = 45.0


@dataclass(frozen=True)
class Request:
    """A measurement.

    Attributes:
        urls: Of one kind of peers.messages and one server, drawn anew for each request.
        files: Picture files or files of pixels, likewise.
        callers: Each sends its next request when the last is answered.
        warm_up_s, seconds: Not measured, and measured.
    """

    urls: Sequence[str]
    files: Sequence[str]
    callers: int
    seconds: float
    warm_up_s: float = 0.5


@dataclass(frozen=True)
class Outcome:
    """The answers of a load.

    Attributes:
        times_ms: From sending to answer, of each request that was answered in the measured time.
        answers: With those of the time before and after.
        client_s: Processor time of the process that sent them all, in seconds.
    """

    times_ms: list[float]
    answers: int
    client_s: float


class Hung(RuntimeError):
    """A server does not answer any more."""


def measure(request: Request) -> Outcome:
    """Send a load from a process of its own. Raises RuntimeError if a request fails, Hung if answers do not come."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(asdict(request)))
        command = [sys.executable, "-m", "peers.load", str(file)]
        longest_s = request.warm_up_s + request.seconds + _PATIENCE_S
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=longest_s)
        except subprocess.TimeoutExpired:
            raise Hung(f"not all requests were answered within {longest_s:.0f} s") from None
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-1500:])
    return Outcome(**json.loads(done.stdout))


async def _by_http(request: Request, pictures: Sequence[bytes]) -> Outcome:
    posts = {url: [post(url, picture) for picture in pictures] for url in request.urls}

    async def caller(record: Callable[[float], bool]) -> None:
        parts = urlsplit(request.urls[0])
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        going = True
        while going:
            asked = random.choice(posts[random.choice(request.urls)])
            sent = time.perf_counter()
            writer.write(asked)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise RuntimeError(head.partition(b"\r\n")[0].decode())
            _, _, rest = head.partition(b"content-length:")
            if rest:
                await reader.readexactly(int(rest.partition(b"\r\n")[0]))
            else:
                await reader.readuntil(b"\r\n0\r\n\r\n")
            going = record(sent)
        writer.close()

    return await _loop(request, caller)


async def _by_grpc(request: Request, pictures: Sequence[bytes]) -> Outcome:
    url = request.urls[0]
    asked = [message(url, picture) for picture in pictures]
    async with grpc.aio.insecure_channel(urlsplit(url).netloc) as channel:
        call = stub_call(url, channel)

        async def caller(record: Callable[[float], bool]) -> None:
            going = True
            while going:
                sent = time.perf_counter()
                await call(random.choice(asked))
                going = record(sent)

        return await _loop(request, caller)


async def _loop(request: Request, caller: Callable[[Callable[[float], bool]], Awaitable[None]]) -> Outcome:
    before_s = time.process_time()
    begins = time.perf_counter() + request.warm_up_s
    ends = begins + request.seconds
    answered: list[float] = []
    answers = 0

    def record(sent: float) -> bool:
        nonlocal answers
        now = time.perf_counter()
        answers += 1
        if begins <= now < ends:
            answered.append(round((now - sent) * 1e3, 3))
        return now < ends

    await asyncio.gather(*(caller(record) for _ in range(request.callers)))
    return Outcome(answered, answers, time.process_time() - before_s)


def main() -> None:
    """Read the request, send the load, print the times."""
    request = Request(**json.loads(Path(sys.argv[1]).read_text()))
    pictures = [Path(file).read_bytes() for file in request.files]
    send = _by_http if request.urls[0].startswith("http:") else _by_grpc
    try:
        print(json.dumps(asdict(asyncio.run(send(request, pictures)))))
    except (RuntimeError, OSError, EOFError, grpc.RpcError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
