"""Prints docs/compatibility.md from covered/*.json, what each client was seen to use; `make clients` runs it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from unittest.mock import Mock

from google.protobuf.descriptor import Descriptor
from resonnx_proto.v1 import vision_pb2
from resonnx_server.http.rest.rest import Rest
from resonnx_server.inference.registry import Models
from resonnx_server.inference.requests import Inference
from resonnx_server.memory.budget import Budget
from resonnx_server.protocol.oip.describe import DTYPES
from resonnx_server.protocol.oip.shared_memory import OFFSET, REGION, SIZE
from resonnx_server.rpc.roles import ROLES

from .features import CALL_HEADERS, kind_of

COVERED = Path(__file__).parent / "covered"
# By the name of the file in covered/.
CLIENTS = {
    "triton_grpc": "tritonclient.grpc",
    "triton_aio": "tritonclient.grpc.aio",
    "triton_http": "tritonclient.http",
    "kserve": "KServe SDK",
    "mlserver": "MLServer",
    "pytriton": "pytriton",
    "perf_analyzer": "perf_analyzer",
    "node": "Node",
    "grpcurl": "grpcurl",
    "curl": "curl",
}
# The message of a request of the tensor protocol, and the page that takes its like in JSON.
INFER = "inference.ModelInferRequest"
INFER_PAGE = "POST /v2/models/{name}/infer"
_SHARED = (REGION, SIZE, OFFSET)
_DECODING = ("beam_width", "num_captions", "min_tokens", "max_tokens", "temperature", "seed")
# The keys of maps that mean something.
_KEYS: Mapping[str, tuple[str, ...]] = {
    f"{INFER}.parameters": ("priority", "timeout", *_DECODING, "preserve_ordering", "stream"),
    f"{INFER}.inputs.parameters": _SHARED,
    f"{INFER}.outputs.parameters": ("classification", *_SHARED),
    "inference.TraceSettingRequest.settings": (
        "trace_level",
        "trace_rate",
        "trace_count",
        "log_frequency",
        "trace_file",
    ),
    "inference.LogSettingsRequest.settings": (
        "log_info",
        "log_warning",
        "log_error",
        "log_verbose_level",
        "log_file",
        "log_format",
    ),
    # `config` and `file:…` are refused.
    "inference.RepositoryModelLoadRequest.parameters": (),
    "inference.RepositoryModelUnloadRequest.parameters": ("unload_dependents",),
}
# The server has one repository, and no memory of GPUs; reflection is gRPC's own.
_WITHOUT_MEANING = ("repository_name",)
# Served over HTTP to keys of the role `admin` only, which the recorded server does not have: test_secured.py asks them.
_ADMIN_PAGES = ("GET /v2/logging", "POST /v2/logging")
_OTHER_MESSAGES = ("inference.CudaSharedMemory", "grpc.reflection.")
# Fields of a picture's or clip's request that the path and the body say.
_NOT_OPTIONS = ("model", "image", "frames", "clip", "version_label")
_JSON_USES = (
    "id",
    *(f"inputs.datatype={name}" for name in ("UINT8", "FP32", "BYTES")),
    "inputs.data",
    "inputs.parameters[binary_data_size]",
    "inputs.parameters[content_type]",
    *(f"parameters[{name}]" for name in ("priority", "timeout", *_DECODING, "binary_data_output")),
    "outputs.name",
    "outputs.parameters[binary_data]",
    "outputs.parameters[classification]",
    *(f"content-encoding: {name}" for name in ("gzip", "deflate")),
    "accept-encoding: gzip",
    "authorization:",
    "grpc-timeout:",
)
_HEAD = """\
# Clients that are tested

<!-- Made by `make clients` from tests/clients/: what each client was seen to send with success. -->

`make clients` installs other projects' clients, each in an environment of its own, and runs them against a server. The
tables list what was read from their connections, of calls that succeeded. A test fails if a method, a page or a
parameter of this server is used by none of the clients. The APIs are described in [wire-api.md](wire-api.md) and
[rest.md](rest.md).
"""

# Path, and "" for the path itself or a use: a field, a parameter, a header.
Use = tuple[str, str]


def rest_paths() -> list[str]:
    """Return the paths of the HTTP port that are served, each with its method."""
    rest = Rest(Inference(Models(), Mock(), Budget(0)), Mock(), Mock(), 1, 1, open_health=True)
    paths = [f"{'POST' if page.most_bytes else 'GET'} {page.path}" for page in rest.pages]
    return [*paths, *(f"GET /{name}" for name in ("metrics", "livez", "readyz"))]


def named(use: Use) -> Use:
    """Return what a use is counted as: fields by their message, those of pages of a version as those of the page."""
    path, what = use
    if not what:
        return use
    if not path.startswith("/"):
        return path.replace("/versions/{version}/infer", "/infer"), what
    if what in CALL_HEADERS or ":" in what:
        return "all methods", what
    return kind_of(path).full_name, what


def served() -> set[Use]:
    """Return all that the server serves."""
    found: set[Use] = {(path, "") for path in (*ROLES, *rest_paths()) if path not in _ADMIN_PAGES}
    for path in ROLES:
        kind = kind_of(path)
        found.update((kind.full_name, use) for use in _fields(kind, kind.full_name))
    found.update((INFER, f"inputs.datatype={name}") for name in DTYPES)
    found.update(("all methods", use) for use in ("authorization:", "grpc-timeout:", "grpc-encoding: gzip"))
    found.update((INFER_PAGE, use) for use in _JSON_USES)
    kinds = vision_pb2.ClassifyRequest, vision_pb2.CaptionRequest, vision_pb2.ClassifyVideoRequest
    for page, kind in zip(("classify", "caption", "classify-video"), kinds, strict=True):
        options = [name for name in kind.DESCRIPTOR.fields_by_name if name not in _NOT_OPTIONS]
        found.update((f"POST /v1/{page}/{{name}}", f"?{name}") for name in options)
        found.add((f"POST /v1/{page}/{{name}}", "content-type: multipart/form-data"))
    found.add(("POST /v1/caption/{name}", "accept: text/event-stream"))
    found.add(("POST /v1/classify-video/{name}", "?times_s"))
    found.add(("GET /v1/models/{name}", "?version"))
    return found


def _fields(kind: Descriptor, before: str) -> Iterator[str]:
    for field in kind.fields:
        name = f"{before}.{field.name}"
        if field.name in _WITHOUT_MEANING or kind.full_name.startswith(_OTHER_MESSAGES):
            continue
        own = name.removeprefix(f"{before.split('Request')[0]}Request.")
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            yield from (f"{own}[{key}]" for key in _KEYS[name])
        elif field.message_type is not None:
            yield own
            yield from _fields(field.message_type, name)
        elif field.name != "datatype":
            yield own


def covered() -> dict[str, set[Use]]:
    """Return what each client was seen to use."""
    return {name: uses_of(name) for name in CLIENTS if (COVERED / f"{name}.json").exists()}


def uses_of(client: str) -> set[Use]:
    """Return what a client was seen to use."""
    content = json.loads((COVERED / f"{client}.json").read_text())
    return {(path, use) for path, uses in content.items() for use in ["", *uses]} & served()


def write(client: str, uses: Iterable[Use]) -> None:
    """Write what a client was seen to use, of what the server serves."""
    content: dict[str, list[str]] = {}
    for path, use in sorted(uses):
        content.setdefault(path, []).extend([use] if use else [])
    COVERED.mkdir(exist_ok=True)
    (COVERED / f"{client}.json").write_text(json.dumps(content, indent=1) + "\n")


def page() -> str:
    """Return docs/compatibility.md."""
    seen, everything = covered(), served()
    methods = [use for use in everything if not use[1] and use[0].startswith("/")]
    pages = [use for use in everything if not use[1] and not use[0].startswith("/")]
    others = [use for use in everything if use[1]]
    return "".join(
        [
            _HEAD,
            "\n## Methods of gRPC\n\n",
            *_crosses("method", sorted(methods), seen),
            "\n## Pages of HTTP\n\n",
            *_crosses("page", sorted(pages, key=lambda use: use[0].split()[::-1]), seen),
            "\n## Fields, parameters and headers\n\n",
            "| of | field, parameter or header | clients |\n|---|---|---|\n",
            *(
                f"| `{path}` | `{use}` | {', '.join(CLIENTS[name] for name in seen if (path, use) in seen[name])} |\n"
                for path, use in sorted(others)
            ),
        ]
    )


def _crosses(title: str, uses: Iterable[Use], seen: Mapping[str, set[Use]]) -> Iterator[str]:
    yield f"| {title} | {' | '.join(CLIENTS[name] for name in seen)} |\n"
    yield f"|---|{'---|' * len(seen)}\n"
    for use in uses:
        yield f"| `{use[0].removeprefix('/')}` | {' | '.join('✓' if use in uses else '' for uses in seen.values())} |\n"


if __name__ == "__main__":
    print(page(), end="")
