"""Closed loops of callers that upload pictures by HTTP or gRPC: a process of its own, the same for every server.

    PYTHONPATH=benchmarks python -m peers.load REQUEST.json

Prints an Outcome. Over HTTP each caller has a connection that it keeps, and writes bytes that were made before.
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
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

_BOUNDARY: Final = "----picture"
_ENDLESS: Final = 60.0


@dataclass(frozen=True)
class Request:
    """A measurement.

    Attributes:
        urls: Where pictures are posted, drawn anew for each request; grpc://HOST:PORT/MODEL for resonnx's Classify.
        files: Picture files, likewise.
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
    """

    times_ms: list[float]
    answers: int


def measure(request: Request) -> Outcome:
    """Send a load from a process of its own. Raises RuntimeError if a request fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(asdict(request)))
        done = subprocess.run([sys.executable, "-m", "peers.load", str(file)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{request.urls[0]}, {request.callers} callers: {done.stderr[-1500:]}")
    return Outcome(**json.loads(done.stdout))


def ask(url: str, picture: bytes) -> dict[str, Any]:
    """Post one picture and return the answer. Raises OSError without a server, RuntimeError for a refusal."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=_ENDLESS)
    try:
        content, kind = _form(picture)
        connection.request("POST", url.partition(parts.netloc)[2], content, {"Content-Type": kind})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{url}: {answer.status} {body[:300]!r}")
    found = json.loads(body)
    # resonnx answers a form of several pictures, BentoML a batch.
    answers: list[dict[str, Any]] = found if isinstance(found, list) else found.get("pictures", [found])
    return answers[0]


def _form(picture: bytes) -> tuple[bytes, str]:
    """Return the body of an upload, and its type."""
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="picture.jpg"\r\n'
    body = head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return body, f"multipart/form-data; boundary={_BOUNDARY}"


def _post(url: str, picture: bytes) -> bytes:
    parts = urlsplit(url)
    body, kind = _form(picture)
    head = f"POST {url.partition(parts.netloc)[2]} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _by_http(request: Request, pictures: Sequence[bytes]) -> Outcome:
    posts = {url: [_post(url, picture) for picture in pictures] for url in request.urls}

    async def caller(record: Callable[[float], bool]) -> None:
        parts = urlsplit(request.urls[0])
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        going = True
        while going:
            post = random.choice(posts[random.choice(request.urls)])
            sent = time.perf_counter()
            writer.write(post)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise RuntimeError(head.decode())
            _, _, rest = head.partition(b"content-length:")
            if rest:
                await reader.readexactly(int(rest.partition(b"\r\n")[0]))
            else:
                await reader.readuntil(b"\r\n0\r\n\r\n")
            going = record(sent)
        writer.close()

    return await _loop(request, caller)


async def _by_grpc(request: Request, pictures: Sequence[bytes]) -> Outcome:
    parts = urlsplit(request.urls[0])
    model = parts.path.removeprefix("/")
    asked = [vision_pb2.ClassifyRequest(model=model, image=vision_pb2.Image(encoded=one)) for one in pictures]
    async with grpc.aio.insecure_channel(parts.netloc) as channel:
        stub = vision_pb2_grpc.VisionStub(channel)

        async def caller(record: Callable[[float], bool]) -> None:
            going = True
            while going:
                sent = time.perf_counter()
                await stub.Classify(random.choice(asked))
                going = record(sent)

        return await _loop(request, caller)


async def _loop(request: Request, caller: Callable[[Callable[[float], bool]], Awaitable[None]]) -> Outcome:
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
    return Outcome(answered, answers)


def main() -> None:
    """Read the request, send the load, print the times."""
    request = Request(**json.loads(Path(sys.argv[1]).read_text()))
    pictures = [Path(file).read_bytes() for file in request.files]
    send = _by_grpc if request.urls[0].startswith("grpc:") else _by_http
    print(json.dumps(asdict(asyncio.run(send(request, pictures)))))


if __name__ == "__main__":
    main()
