"""Counters agree after refusals of all kinds, over gRPC and HTTP, in shared memory, while models come and go."""

import os
import random
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton
from resonnx_server.access.keys import digest_of
from resonnx_server.memory.regions import FOLDER

from .... import bare_graphs
from .counting import (
    NOBODY,
    Counting,
    Counts,
    assert_agree,
    counts,
    credentials,
    reason_of,
    request,
    statistics,
)
from .mixed_requests import KINDS, Guarded, Mix, X, key_of

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs /dev/shm")

NAMES = ("doubling", "picky", "loops", "hoards", "digits")
KEYS = {
    "all": 'roles = ["infer", "read", "admin"]\nbest_priority = 1',
    "plain": 'models = ["doubling"]',
    "slow": "rate_per_s = 0.001",
    "narrow": "max_concurrent = 1",
}
CONFIG = """
[server]
keys_file = "{keys}"
control_mode = "explicit"
load_models = ["*"]
admin_port = 0
system_shared_memory_bytes = 1_048_576
max_message_bytes = 1_048_576
memory_budget_bytes = 16_777_216
[models.loops]
max_queue_requests = 1
max_instances = 1
[models.hoards]
max_batch_size = 32
max_queue_delay_us = 300_000
"""


@pytest.fixture(scope="module")
def server(start_server, demo_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("refusing")
    contents = (bare_graphs.doubling(), bare_graphs.picky(), bare_graphs.counting(), bare_graphs.doubling_any())
    for name, content in zip(NAMES, contents, strict=False):
        path = folder / "models" / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    shutil.copytree(demo_repository / "digits", folder / "models" / "digits")
    entries = [f'[keys.{name}]\nsha256 = "{digest_of(key_of(name)).hex()}"\n{more}\n' for name, more in KEYS.items()]
    (folder / "keys.toml").write_text("".join(entries))
    (folder / "config.toml").write_text(CONFIG.format(keys=folder / "keys.toml"))
    with start_server(folder / "models", "--config", str(folder / "config.toml")) as running:
        with grpc.insecure_channel(running.grpc) as channel:
            # The one request that its rate allows.
            assert Counting(running, channel).ask(request("doubling", X), key=key_of("slow")) == ""
        yield Guarded(**vars(running), key=key_of("all"))


@pytest.fixture
def picture(samples: Path, truth: dict[str, dict[str, str]]) -> bytes:
    return (samples / next(name for name, entry in truth.items() if entry["model"] == "digits")).read_bytes()


@pytest.fixture
def segment(server: Guarded) -> Iterator[str]:
    name = f"resonnx-test-{uuid.uuid4().hex}"
    path, headers = FOLDER / name, dict(credentials(key_of("all")))
    path.write_bytes(bytes(4096))
    with triton.InferenceServerClient(str(server.admin)) as admin:
        admin.register_system_shared_memory(name, name, 4096, headers=headers)
        yield name
        admin.unregister_system_shared_memory(name, headers=headers)
    os.unlink(path)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_all_agree_after_refusals_and_reloads(server: Guarded, segment: str, picture: bytes, seed: int) -> None:
    rounds = 1 if seed == 1 else 4
    rng, before = random.Random(seed), counts(server, NAMES)
    admin = triton.InferenceServerClient(str(server.admin))
    headers = dict(credentials(key_of("all")))
    with grpc.insecure_channel(server.grpc) as channel, ThreadPoolExecutor(4) as threads, admin:
        client = Counting(server, channel, key_of("all"))
        mix = Mix(client, segment, picture)
        for _ in range(rounds):
            for done in [threads.submit(getattr(mix, kind)) for kind in rng.sample(KINDS, len(KINDS))]:
                done.result()
            mix.memory()
            # While requests come, each is answered or refused.
            going = [threads.submit(_comes_or_goes, client) for _ in range(4)]
            admin.unload_model("doubling", headers=headers)
            assert client.ask(request("doubling", X), known=False) in ("MODEL_NOT_FOUND", "UNAVAILABLE")
            for done in going:
                done.result()
            client.settle()
            _assert_agree(client, server, before)
            admin.load_model("doubling", headers=headers)
            assert client.ask(request("doubling", X)) == ""
        client.settle()
        _assert_agree(client, server, before)


def _assert_agree(client: Counting, server: Guarded, before: Counts) -> None:
    """As `assert_agree`; where memory is spent, a client does not know whether its message was received and read."""
    after, spent = counts(server, NAMES), "MEMORY_SPENT"
    moved = after[NOBODY]["error", spent] - before[NOBODY].get(("error", spent), 0)
    client.failures["hoards", spent] += client.failures.pop((NOBODY, spent), 0) - int(moved)
    if moved:
        client.failures[NOBODY, spent] = int(moved)
    if not client.failures["hoards", spent]:
        del client.failures["hoards", spent]
    assert_agree(client, before, after, statistics(server, key=key_of("all")))


def _comes_or_goes(client: Counting) -> None:
    for _ in range(10):
        reason = ""
        try:
            client.stub.ModelInfer(request("doubling", X), timeout=60, metadata=credentials(client.key))
        except grpc.RpcError as error:
            reason = reason_of(error)
        client.count(NOBODY if reason else "doubling", reason, len(X))
