"""deploy/lock.py: the sha256 of all files of a version, from a package index of plain pages."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from packaging.version import Version

from deploy import lock

_A, _B, _C = ("a" * 64, "b" * 64, "c" * 64)
_PAGE = f"""<!DOCTYPE html><html><body>
<a href="../../files/some_package-1.2.tar.gz#sha256={_B}" data-requires-python="&gt;=3.9">some_package-1.2.tar.gz</a>
<a href="https://files.example/some_package-1.2.0-py3-none-any.whl#sha256={_A}">wheel</a>
<a href="some_package-1.20-py3-none-any.whl#sha256={_C}">another version</a>
<a href="some_package-1.2%2Bcpu-py3-none-any.whl#sha256={_C}">a build of its own</a>
<a href="some-package-1.2.win32.exe#sha256={_C}">an old format</a>
<a href="some_package-1.2-1-py3-none-any.whl#md5=0">no sha256</a>
</body></html>"""


@pytest.fixture
def index() -> Iterator[str]:
    """A package index that has one package with hashes, and another with none."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pages = {"/simple/some-package/": _PAGE, "/simple/bare/": '<a href="bare-1-py3-none-any.whl">bare</a>'}
            page = pages.get(self.path)
            self.send_response(404 if page is None else 200)
            self.end_headers()
            self.wfile.write((page or "").encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()
        thread.join()


def test_all_files_of_the_version_are_listed(index: str) -> None:
    expected = f"some-package==1.2 \\\n    --hash=sha256:{_A} \\\n    --hash=sha256:{_B}\n"
    assert lock.listed({"some-package": Version("1.2")}, index) == expected


def test_packages_without_hashes_are_named(index: str) -> None:
    with pytest.raises(lock.NoHash, match=r"states no sha256 of bare 1, some-package 3$"):
        lock.listed({"bare": Version("1"), "some-package": Version("3")}, index)


def test_what_the_distributions_need_is_what_they_state() -> None:
    needed = list(lock.needed("resonnx-server"))
    assert any(each.startswith("grpcio>=") for each in needed)
    assert not any("resonnx" in each or ";" in each or "onnxruntime" in each for each in needed)
    assert [each.split(">")[0].split("=")[0] for each in lock.extra("resonnx-server", "cpu")] == ["onnxruntime"]
