"""The rooms' walls: what a fresh interpreter must not have loaded, and what must live side by side in one."""

import subprocess
import sys

import pytest


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(
    ("imports", "forbidden"),
    [
        ("resonnx, resonnx.cli", ("onnxruntime", "torch", "numpy", "PIL", "onnx", "resonnx_server", "resonnx_export")),
        ("resonnx_server.lifecycle", ("torch", "onnx", "resonnx_export", "resonnx", "sklearn")),
        ("resonnx_proto.v1.vision_pb2_grpc, resonnx_proto.inference.grpc_service_pb2_grpc", ("numpy", "onnxruntime")),
        (
            "resonnx_server.runtime.model_files.golden_examples, resonnx_server.runtime.decoding.beams",
            ("grpc", "asyncio", "torch", "aiohttp"),
        ),
    ],
)  # fmt: skip
def test_room_does_not_load(imports: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {imports}; print([name for name in {forbidden!r} if name in sys.modules])"
    done = _run(code)
    assert done.stdout.strip() == "[]", done.stderr


def test_exporter_uses_only_the_runtime_room_of_the_server() -> None:
    code = (
        "import sys, pkgutil, importlib, resonnx_export\n"
        "for module in pkgutil.walk_packages(resonnx_export.__path__, 'resonnx_export.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "allowed = ('resonnx_server', 'resonnx_server.errors', 'resonnx_server.runtime')\n"
        "below = ('resonnx_server.errors.', 'resonnx_server.runtime.')\n"
        "print(sorted(name for name in sys.modules if name.startswith('resonnx_server')\n"
        "      and name not in allowed and not name.startswith(below)))\n"
    )
    done = _run(code)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("first", ["tritonclient.grpc", "resonnx_server.lifecycle, resonnx"])
def test_tritonclient_and_resonnx_share_a_process(first: str) -> None:
    done = _run(f"import {first}; import tritonclient.grpc, resonnx_server.lifecycle, resonnx; print('both')")
    assert done.stdout.strip() == "both", done.stderr


def test_server_reads_no_pickles_and_opens_no_urls() -> None:
    code = (
        "import ast, pathlib, resonnx_server\n"
        "bad = {'pickle', 'marshal', 'shelve', 'urllib', 'requests', 'torch', 'onnx', 'yaml'}\n"
        "found = set()\n"
        "for path in pathlib.Path(resonnx_server.__path__[0]).rglob('*.py'):\n"
        "    for node in ast.walk(ast.parse(path.read_text())):\n"
        "        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []\n"
        "        names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []\n"
        "        found |= {name for name in names if name.split('.')[0] in bad}\n"
        "print(sorted(found))\n"
    )
    assert _run(code).stdout.strip() == "[]"


def test_start_reads_no_authorities_and_leaves_the_process_as_it_was() -> None:
    code = (
        "import gc, os\n"
        "from resonnx_server.runtime.machine.cheap_imports import cheap_imports\n"
        "os.environ['SSL_CERT_DIR'] = 'there'\n"
        "before = {**os.environ}\n"
        "with cheap_imports(): import resonnx_server.lifecycle\n"
        "import aiohttp.connector\n"
        "assert {**os.environ} == before | {'PYDANTIC_DISABLE_PLUGINS': '__all__'}\n"
        "print(gc.isenabled(), aiohttp.connector._SSL_CONTEXT_VERIFIED.cert_store_stats()['x509_ca'])\n"
    )
    done = _run(code)
    assert done.stdout.strip() == "True 0", done.stderr
