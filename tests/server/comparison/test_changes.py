"""A repository that changes while versions are compared, with a real server in each control mode."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from resonnx_proto.inference import grpc_service_pb2 as oip
from resonnx_proto.v1 import repository_pb2 as pb
from resonnx_server.runtime.model_files.manifest import dump_manifest, parse_manifest, sha256sums

from .. import answering
from .calling import Caller, calling, until

_RULE = "agreement>=0.95 and n>=40"


@contextmanager
def calling_all(start_server, repository: Path, names: tuple[str, ...], *flags: str) -> Iterator[list[Caller]]:
    """Start a server and yield a client for each model."""
    with start_server(repository, "--admin-port", "0", *flags) as server, ExitStack() as stack:
        yield [stack.enter_context(Caller(server, name)) for name in names]


def write_models(repository: Path, *names: str, settings: str = "") -> None:
    """Write models whose version 1 answers with class 1."""
    for name in names:
        answering.write(repository / name / "1", 1)
        if settings:
            (repository / name / "config.toml").write_text(settings)


def rename_class(version: Path) -> None:
    """Give one of a version's classes another name: its answers cannot be compared then."""
    files = {path.name: path.read_bytes() for path in version.iterdir() if path.name != "SHA256SUMS"}
    manifest = parse_manifest(files["manifest.json"])
    manifest.classifier.labels[0] = "another"
    files["manifest.json"] = dump_manifest(manifest)
    for name, content in {**files, "SHA256SUMS": sha256sums(files)}.items():
        (version / name).write_bytes(content)


def ended(caller: Caller, reason: str) -> pb.Comparison:
    """Wait until a comparison ends without a verdict; all requests are answered meanwhile."""
    told = caller.classify_until_ended()
    assert (told.state, told.reason) == (pb.COMPARISON_STATE_ENDED, reason)
    return told


def unserved(caller: Caller, reason: str) -> None:
    """Wait until version 2 does not serve, for a reason."""
    until(caller.states, lambda it: it[2] == ("UNAVAILABLE", reason), lambda: None)
    with pytest.raises(grpc.RpcError, match=reason):
        caller.classify(version=2)


def test_files_that_change_while_the_repository_is_watched(start_server, tmp_path: Path) -> None:
    names = ("gone", "changed", "served", "alone", "damaged")
    # Otherwise the watch itself would serve version 2.
    write_models(tmp_path, *names, settings='version_policy = "specific: [1]"\n')
    for name in names:
        answering.write(tmp_path / name / "2", 2)
    watched = ("--control-mode", "poll", "--poll-interval-s", "0.1")
    with calling_all(start_server, tmp_path, names, *watched) as callers:
        gone, changed, served, alone, damaged = callers
        for caller in callers:
            caller.shadow(2)
            assert (caller.classify(), caller.classify(version=2)) == ((1, 1), (2, 2))

        shutil.rmtree(tmp_path / "gone/2")
        answering.write(tmp_path / "changed/2", 3)
        answering.write(tmp_path / "served/1", 5)
        shutil.rmtree(tmp_path / "alone/1")
        answering.write(tmp_path / "damaged/1", 1, corrupt=True)

        ended(gone, "version 2 was unloaded or loaded again")
        ended(changed, "version 2 was unloaded or loaded again")
        ended(served, "version 1 was unloaded or loaded again")
        ended(alone, "version 1 was unloaded or loaded again")
        untold = "its comparison ended without a verdict: version {} was unloaded or loaded again"
        unserved(changed, untold.format(2))
        unserved(served, untold.format(1))
        assert (gone.classify(), changed.classify(), served.classify()) == ((1, 1), (1, 1), (1, 5))
        # Nothing else serves.
        assert alone.classify() == (2, 2)
        # What served serves on if its changed files are refused, and is compared on.
        until(damaged.states, lambda it: "sha256" in it[1][1], damaged.classify)
        told = until(damaged.status, lambda it: it.answers > 40, damaged.classify)
        assert (told.state, damaged.classify()) == (pb.COMPARISON_STATE_RUNNING, (1, 1))
        # A version that was refused for the end of its comparison is compared again by request.
        changed.shadow(2, promote_if="agreement>=0.1 and n>=20")
        assert changed.classify_until_ended().state == pb.COMPARISON_STATE_ROLLED_BACK
        served.shadow(2, promote_if="n>=20 and max_dp<=1")
        assert served.classify_until_ended().state == pb.COMPARISON_STATE_PROMOTED
        assert served.classify() == (2, 2)


def test_a_repository_that_is_not_watched(start_server, tmp_path: Path) -> None:
    names = ("m", "pinned")
    write_models(tmp_path, "m")
    write_models(tmp_path, "pinned", settings='version_policy = "all"\nlabels = {stable = 1}\n')
    with calling_all(start_server, tmp_path, names) as (caller, pinned):
        # A candidate that cannot be compared or loaded leaves all as it was, though version_policy chooses the latest.
        answering.write(tmp_path / "m/2", 2)
        rename_class(tmp_path / "m/2")
        answering.write(tmp_path / "m/3", 3, lies=True)
        for version, why in ((2, "they have other classes"), (3, "disagree with the golden"), (4, "has no version 4")):
            with pytest.raises(grpc.RpcError, match=why):
                caller.shadow(version)
            assert caller.classify() == (1, 1)
        until(caller.states, lambda it: it[2] == ("UNAVAILABLE", "unloaded"), lambda: None)
        # So does one whose caller does not wait for the load.
        answering.write(tmp_path / "m/5", 5)
        with pytest.raises(grpc.RpcError) as caught:
            caller.admin.StartComparison(_shadow(5), timeout=0.005)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(caller.states, lambda it: it.get(5, ("", ""))[0] in ("", "UNAVAILABLE"), caller.classify)
        assert caller.classify() == (1, 1)
        # Files that vanish after the load matter to nobody.
        answering.write(tmp_path / "m/6", 1)
        caller.shadow(6, promote_if=_RULE)
        shutil.rmtree(tmp_path / "m/6")
        assert caller.classify_until_ended().state == pb.COMPARISON_STATE_PROMOTED
        assert caller.classify() == (6, 1)

        # A promotion outlasts later comparisons, whatever the settings say.
        for version, answer, state in ((2, 1, pb.COMPARISON_STATE_PROMOTED), (3, 3, pb.COMPARISON_STATE_ROLLED_BACK)):
            answering.write(tmp_path / f"pinned/{version}", answer)
            pinned.shadow(version, promote_if=_RULE)
            assert pinned.classify_until_ended().state == state
            assert pinned.classify() == (2, 1)


def _shadow(version: int) -> pb.StartComparisonRequest:
    return pb.StartComparisonRequest(model="m", version=version, mode=pb.COMPARISON_MODE_SHADOW)


def test_models_that_are_loaded_and_unloaded_by_request(start_server, tmp_path: Path) -> None:
    write_models(tmp_path, "m")

    def load(caller: Caller) -> None:
        caller.oip.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="m"), timeout=60)

    with calling(start_server, tmp_path) as caller:
        answering.write(tmp_path / "m/2", 2)
        caller.start(2, pb.COMPARISON_MODE_CANARY, share=1)
        assert caller.classify() == (2, 2)
        # A load that finds nothing new ends no comparison; one of the version that served does.
        load(caller)
        assert caller.status().state == pb.COMPARISON_STATE_RUNNING
        answering.write(tmp_path / "m/1", 4)
        load(caller)
        ended(caller, "version 1 was unloaded or loaded again")
        unserved(caller, "its comparison ended without a verdict: version 1 was unloaded or loaded again")
        assert caller.classify() == (1, 4)
        caller.shadow(2)
        caller.oip.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="m"), timeout=60)
        # Not a second later, when the loss is noticed anyway.
        with pytest.raises(grpc.RpcError, match="not being compared any more: version 1 was unloaded"):
            caller.admin.Promote(pb.PromoteRequest(model="m"), timeout=20)
        assert caller.status().state == pb.COMPARISON_STATE_ENDED
        assert {state for state, _ in caller.states().values()} == {"UNAVAILABLE"}
