"""Counts the files of the server that a request runs through, and the calls from one of them into another.

    python benchmarks/crossings.py [--root TREE ...] [--models models] [--json FILE] [--edges]

Each tree is a checkout of this repository, this one by default; with several, each figure is also given relative to the
first tree's. Its server runs with one model, in a process of its own, under a profiler that sees every call of a Python
function on all threads. Counted are calls of functions in `server/resonnx_server` whose nearest caller in that package
is in another file, or that come from outside (the event loop, a thread). The gRPC fronts and resumed coroutines are
left out.

    jpeg     one unary Classify of a JPEG file
    tensor   one ModelInfer of uint8 pixels
    word     one more word of a StreamCaption, greedily decoded
"""

import argparse
import asyncio
import contextlib
import io
import json
import opcode
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

_ROOT: Final = Path(__file__).resolve().parent.parent
_OUTSIDE: Final = "(outside)"
# Both gRPC fronts, in any tree.
_FRONTS: Final = ("rpc/core/", "rpc/fronts/")
_WARM_UP, _REPEATS = 5, 20
_WORDS: Final = (4, 14)
# A server without a call for so long has nothing under way.
_QUIET_S: Final = 0.2
_RESUME: Final = opcode.opmap["RESUME"]


class Tracer:
    """Counts calls by the files that they come from and lead to, while `counts` is not None.

    Args:
        package: Folder whose files are counted.
    """

    def __init__(self, package: Path) -> None:
        self._prefix = f"{package}{os.sep}"
        self._files: dict[str, str | None] = {}
        self._starts: dict[tuple[Any, int], bool] = {}
        self.counts: Counter[tuple[str, str]] | None = None
        self.last_call_s = 0.0

    def start(self) -> None:
        """Watch this thread, and those that are started from now on."""
        threading.setprofile(self)
        sys.setprofile(self)

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Count a call across a file border: the profile function of `sys.setprofile`."""
        counts = self.counts
        if counts is None or event != "call" or (file := self._file(frame)) is None:
            return
        self.last_call_s = time.monotonic()
        if not self._is_start(frame):
            return
        caller = frame.f_back
        while caller is not None and (source := self._file(caller)) is None:
            caller = caller.f_back
        counts[_OUTSIDE if caller is None else str(source), file] += 1

    def _file(self, frame: FrameType) -> str | None:
        """Return the frame's file within the package; None for others and for the gRPC fronts."""
        name = frame.f_code.co_filename
        if name not in self._files:
            inside = name.removeprefix(self._prefix)
            self._files[name] = None if inside == name or inside.startswith(_FRONTS) else inside
        return self._files[name]

    def _is_start(self, frame: FrameType) -> bool:
        """Whether a function begins, rather than a coroutine or generator that goes on."""
        place = frame.f_code, frame.f_lasti
        if place not in self._starts:
            at, code = max(frame.f_lasti, 0), frame.f_code.co_code
            self._starts[place] = code[at] != _RESUME or code[at + 1] & 3 == 0
        return self._starts[place]

    def of(self, request: Callable[[], object], repeats: int = _REPEATS) -> Counter[tuple[str, str]]:
        """Return the counts of `repeats` requests, one after the other, until all have ended."""
        for _ in range(_WARM_UP):
            request()
        self._settle()
        counts: Counter[tuple[str, str]] = Counter()
        self.counts = counts
        for _ in range(repeats):
            request()
        self._settle()
        self.counts = None
        return counts

    def _settle(self) -> None:
        while (left_s := self.last_call_s + _QUIET_S - time.monotonic()) > 0:
            time.sleep(left_s)


class _Output(io.StringIO):
    """Receives the server's output; `has_line` is set after a line."""

    def __init__(self) -> None:
        super().__init__()
        self.has_line = asyncio.Event()

    def write(self, text: str) -> int:
        """Keep `text`."""
        if "\n" in text:
            self.has_line.set()
        return super().write(text)


def count(model: Path, package: Path) -> dict[str, Any]:
    """Serve a model by the package in this process, and return files, crossings and their edges of its requests.

    The tracer starts before the server, so that it sees all of the server's threads.
    """
    from resonnx_server.config import Settings
    from resonnx_server.lifecycle import Server

    tracer = Tracer(package)
    tracer.start()

    async def serve(repository: Path) -> dict[str, Any]:
        server = Server(Settings(repository=repository, port=0, http_port=0))
        output = _Output()
        with contextlib.redirect_stdout(output):
            serving = asyncio.create_task(server.run())
            waiting = asyncio.create_task(output.has_line.wait())
            await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        address = re.search(r" ready grpc=(\S+)", output.getvalue())
        if address is None:
            await serving
            raise RuntimeError(f"the server is not ready: {output.getvalue()}")
        try:
            return await asyncio.to_thread(_ask, address[1], model.name, tracer)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    with tempfile.TemporaryDirectory() as repository:
        (Path(repository) / model.name).symlink_to(model.resolve())
        return asyncio.run(serve(Path(repository)))


def _ask(address: str, model: str, tracer: Tracer) -> dict[str, Any]:
    import grpc
    from PIL import Image
    from resonnx_proto.inference import grpc_service_pb2 as oip
    from resonnx_proto.inference import grpc_service_pb2_grpc
    from resonnx_proto.v1 import vision_pb2 as pb
    from resonnx_proto.v1 import vision_pb2_grpc

    file = io.BytesIO()
    Image.effect_noise((320, 240), 60).convert("RGB").save(file, "JPEG")
    image = pb.Image(encoded=file.getvalue())
    with grpc.insecure_channel(address) as channel:
        vision = vision_pb2_grpc.VisionStub(channel)
        tensors = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        manifest = vision.GetModel(pb.GetModelRequest(model=model)).manifest
        if manifest.HasField("classifier"):
            height, width = manifest.input.height, manifest.input.width
            infer = oip.ModelInferRequest(model_name=model, raw_input_contents=[bytes(3 * height * width)])
            infer.inputs.add(name="image", datatype="UINT8", shape=[1, height, width, 3])
            classify = pb.ClassifyRequest(model=model, image=image)
            return {
                "jpeg": _figures(tracer.of(lambda: vision.Classify(classify)), _REPEATS),
                "tensor": _figures(tracer.of(lambda: tensors.ModelInfer(infer)), _REPEATS),
            }

        def caption(words: int) -> int:
            request = pb.CaptionRequest(model=model, image=image, beam_width=1, min_tokens=words, max_tokens=words)
            return len(list(vision.StreamCaption(request)))

        few, many = _WORDS
        if (more := caption(many) - caption(few)) != many - few:
            raise RuntimeError(f"{many - few} more tokens gave {more} more messages")
        counts = tracer.of(lambda: caption(many))
        counts.subtract(tracer.of(lambda: caption(few)))
        return {"word": _figures(counts, _REPEATS * (many - few))}


def _figures(counts: Counter[tuple[str, str]], requests: int) -> dict[str, Any]:
    """Return the counts per request; edges that most requests lack are left out."""
    usual = {edge: number / requests for edge, number in counts.items() if number * 2 > requests}
    crossed = {edge: number for edge, number in usual.items() if edge[0] != edge[1]}
    return {
        "files": len({file for edge in usual for file in edge} - {_OUTSIDE}),
        "crossings": round(sum(crossed.values()), 1),
        "edges": {
            f"{source} -> {target}": round(number, 2)
            for (source, target), number in sorted(crossed.items(), key=lambda item: -item[1])
        },
    }


def main() -> None:
    """Count each tree in a process of its own, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, action="append", help="a checkout to count; may be given more than once")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of `digits` and `scenes`")
    parser.add_argument("--json", type=Path, help="write all figures, by commit")
    parser.add_argument("--edges", action="store_true", help="print every pair of files with its number of calls")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    roots = [root.resolve() for root in given.root or [_ROOT]]
    if given.one:
        print(json.dumps(count(given.one, roots[0] / "server" / "resonnx_server")))
        return
    found: dict[str, dict[str, Any]] = {}
    for root in roots:
        commit = subprocess.check_output(["git", "-C", root, "rev-parse", "--short", "HEAD"], text=True).strip()
        path = os.pathsep.join(str(root / room) for room in ("server", "proto"))
        found[commit] = {}
        for model in ("digits", "scenes"):
            command = [sys.executable, __file__, "--root", str(root), "--one", str(given.models / model)]
            output = subprocess.check_output(command, text=True, env={**os.environ, "PYTHONPATH": path})
            found[commit] |= json.loads(output.splitlines()[-1])
    first = next(iter(found.values()))
    for commit, figures in found.items():
        for request, each in figures.items():
            shares = [each[name] / first[request][name] for name in ("files", "crossings")]
            print(
                f"{commit}  {request:6}  {each['files']:3} files ({shares[0]:.2f})"
                f"  {each['crossings']:6} crossings ({shares[1]:.2f})"
            )
            for edge, number in each["edges"].items() if given.edges else ():
                print(f"    {number:6.2f}  {edge}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
