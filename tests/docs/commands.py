"""The programs that examples call, for tests: `python commands.py NAME ARGUMENT...` does what the program would do.

resonnx, resonnx-export, resonnx-server, curl and protoc run, with the address of the test's server. make, docker, pip
and pytest do not run: every target, file, package and test that they name must exist. grpcurl is replaced by grpcio:
the request is parsed as grpcurl parses it and sent to the server, and the answer is printed.
"""

import json
import os
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("apt-get", "curl", "docker", "grpcurl", "make", "pip", "pre-commit", "protoc", "pytest", "python",
         "resonnx", "resonnx-export", "resonnx-server", "unzip")  # fmt: skip


def address(kind: str) -> str:
    """Return "host:port" of the server, of "grpc" or "http": the one that the page started last, else the test's."""
    started = Path("server.json")
    return str(json.loads(started.read_text() if started.exists() else os.environ["DOCS_SERVER"])[kind])


def execute(*command: str) -> int:
    environment = {**os.environ, "RESONNX_SERVER": address("grpc")}
    return subprocess.run([sys.executable, *command], env=environment, timeout=100).returncode


def serve(arguments: list[str]) -> int:
    """Start the server on free ports and return when it is ready; it ends with the test. Run other commands."""
    if arguments[:1] in (["keys"], ["check"]):
        return execute("-m", "resonnx_server", *arguments)
    ports = ["--port", "0", "--http-port", "0", *(["--admin-port", "0"] if "--admin-port" in arguments else [])]
    environment = {name: value for name, value in os.environ.items() if name != "RESONNX_PORT"}
    with Path("server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "resonnx_server", *arguments, *ports],
            stdout=subprocess.PIPE, stderr=log, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
    with Path("servers").open("a") as pids:
        pids.write(f"{process.pid}\n")
    assert process.stdout is not None
    line = process.stdout.readline()
    ready = re.match(r"resonnx-server ready grpc=(\S+) http=(\S+)(?: admin=(\S+))?", line)
    if ready is None:
        print(Path("server.log").read_text(), file=sys.stderr)
        return 1
    Path("server.json").write_text(json.dumps({"grpc": ready[1], "http": ready[2], "admin": ready[3]}))
    return 0


def curl(arguments: list[str]) -> int:
    headers, tls, urls, body = {}, None, [], None
    files: list[str] = []
    given = iter(arguments)
    for each in given:
        if each == "-H":
            name, _, value = next(given).partition(": ")
            headers[name] = value
        elif each == "--cacert":
            tls = ssl.create_default_context(cafile=next(given))
        elif each in ("-d", "--data-binary"):
            content = next(given)
            body = Path(content[1:]).read_bytes() if content.startswith("@") else content.encode()
        elif each == "-F":
            files.append(next(given))
        elif not each.startswith("-"):
            urls.append(each)
    (url,) = urls
    if files:
        body, headers["Content-Type"] = _form(files), "multipart/form-data; boundary=form"
    if "://" not in url:
        url = f"http://{url}"
    request = urllib.request.Request(url.replace("localhost:8002", address("http")), body, headers)
    with urllib.request.urlopen(request, timeout=20, context=tls) as response:
        print(response.read().decode())
    return 0


def _form(files: list[str]) -> bytes:
    """Return the body of multipart/form-data with files that are given as NAME=@PATH."""
    parts = []
    for each in files:
        name, _, path = each.partition("=@")
        head = f'--form\r\nContent-Disposition: form-data; name="{name}"; filename="{Path(path).name}"\r\n\r\n'
        parts.append(head.encode() + Path(path).read_bytes() + b"\r\n")
    return b"".join((*parts, b"--form--\r\n"))


def grpcurl(arguments: list[str]) -> int:
    """Send one unary request, or list or describe by reflection."""
    import grpc
    from google.protobuf import json_format, message_factory
    from google.protobuf.descriptor_pool import DescriptorPool
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    data, rest = "{}", []
    given = iter(arguments)
    for each in given:
        if each == "-d":
            data = next(given)
        elif each != "-plaintext":
            assert not each.startswith("-"), f"unknown flag {each}"
            rest.append(each)
    server, *action = rest
    assert server == "localhost:8001"
    with grpc.insecure_channel(address("grpc")) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        if action == ["list"]:
            print("\n".join(database.get_services()))
        elif action[0] == "describe":
            service, _, method = action[1].rpartition(".")
            print(pool.FindServiceByName(service).methods_by_name[method].input_type.full_name)
        else:
            service, method = action[0].split("/")
            called = pool.FindServiceByName(service).methods_by_name[method]
            kinds = [message_factory.GetMessageClass(kind) for kind in (called.input_type, called.output_type)]
            request = json_format.Parse(data, kinds[0]())
            answer: Any = channel.unary_unary(
                f"/{action[0]}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=kinds[1].FromString,
            )(request, timeout=20)
            print(json_format.MessageToJson(answer))
    return 0


def pip(arguments: list[str]) -> int:
    """Check that the folders exist, that they declare the extras, and that other packages are plain names."""
    import tomllib

    for each in arguments[1:]:
        if each.startswith("./"):
            folder, _, extra = each.rstrip("]").partition("[")
            project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
            assert not extra or extra in project["optional-dependencies"], each
        else:
            assert re.fullmatch(r"--[\w-]+|[\w-]+(\[\w+\])?(==[\d.]+)?", each), each
    return 0


def make(arguments: list[str]) -> int:
    """Have make resolve the targets and variables without running anything."""
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20)
    print(done.stderr, file=sys.stderr)
    return done.returncode


def docker(arguments: list[str]) -> int:
    if arguments[0] == "compose":
        assert (ROOT / "docker-compose.yml").exists()
    if "-f" in arguments:
        assert (ROOT / arguments[arguments.index("-f") + 1]).exists()
    return 0


def python(arguments: list[str]) -> int:
    """Run Python; of a script of the repository, print its help, as it may take an hour."""
    if arguments[:2] == ["-m", "pytest"]:
        return run_tests(arguments[2:])
    if arguments[0].endswith(".py") and (ROOT / arguments[0]).exists():
        arguments = [str(ROOT / arguments[0]), "--help"]
    return execute(*arguments)


def protoc(arguments: list[str]) -> int:
    return execute("-m", "grpc_tools.protoc", *arguments)


def run_tests(arguments: list[str]) -> int:
    """Collect the tests that pytest would run: there must be some."""
    tests = [*arguments, "--collect-only", "-q", "-p", "no:cacheprovider"]
    return subprocess.run([sys.executable, "-m", "pytest", *tests], cwd=ROOT, timeout=100).returncode


def main(name: str, arguments: list[str]) -> int:
    """Do what the program `name` would do and return its exit status."""
    # The real programs, or make would call this one again.
    os.environ["PATH"] = os.environ["DOCS_PATH"]
    match name:
        case "resonnx" | "resonnx-export":
            arguments = [address("admin") if each == "localhost:8003" else each for each in arguments]
            if arguments[:1] == ["bench"]:
                # The last value counts.
                arguments += ["--duration", "0.2", "--warmup", "0.1"]
            return execute("-m", name.replace("-", "_"), *arguments)
        case "resonnx-server":
            return serve(arguments)
        case "pytest":
            return run_tests(arguments)
        case "apt-get" | "pre-commit" | "unzip":
            return 0
    return {"curl": curl, "docker": docker, "grpcurl": grpcurl, "make": make, "pip": pip, "protoc": protoc,
            "python": python}[name](arguments)  # fmt: skip


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], sys.argv[2:]))
    except urllib.error.URLError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
