"""A new version of a captioner in shadow, with a real server: its captions are compared word by word."""

import time
from functools import cache
from pathlib import Path

import grpc
import pytest
from resonnx_proto.v1 import manifest_pb2, repository_pb2_grpc, vision_pb2, vision_pb2_grpc
from resonnx_proto.v1 import repository_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import dump_golden
from resonnx_server.runtime.model_files.manifest import SCHEMA_VERSION, dump_manifest, sha256sums

from ..language import picture
from ..onnx_language import version_files

_PICTURES = 20
_RULE = "edit<=0.5 and n>=40"


def write(version: Path, seed: int) -> None:
    """Write a version's folder; each seed has captions of its own."""
    files, golden = version_files(seed)
    manifest = manifest_pb2.Manifest()
    manifest.CopyFrom(files.manifest)
    manifest.schema_version = SCHEMA_VERSION
    taken = manifest_pb2.ImageInput
    manifest.input.MergeFrom(taken(resize=taken.RESIZE_STRETCH, filter=taken.FILTER_BILINEAR, pixel_scale=255))
    found = {**files.files, "golden.npz": dump_golden(golden), "manifest.json": dump_manifest(manifest)}
    version.mkdir(parents=True)
    for name, data in {**found, "SHA256SUMS": sha256sums(found)}.items():
        (version / name).write_bytes(data)


def _words(answer: vision_pb2.CaptionResponse) -> tuple[str, ...]:
    return tuple(word.text for word in answer.captions[0].words)


@cache
def _distance(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Return the edit distance by its definition."""
    if not one or not other:
        return len(one) + len(other)
    if one[-1] == other[-1]:
        return _distance(one[:-1], other[:-1])
    return 1 + min(_distance(one[:-1], other), _distance(one, other[:-1]), _distance(one[:-1], other[:-1]))


@pytest.mark.slow
@pytest.mark.parametrize("is_other", [True, False], ids=["other words", "identical"])
def test_a_captioner_is_compared_by_its_words(start_server, tmp_path: Path, is_other: bool) -> None:
    write(tmp_path / "models/m/1", 0)
    reports = tmp_path / "reports"
    reports.mkdir()
    flags = ("--control-mode", "explicit", "--load-models", "m", "--admin-port", "0")
    keeping = ("--keep-disagreements", "3", "--comparison-reports", str(reports))
    with (
        start_server(tmp_path / "models", *flags, *keeping) as server,
        grpc.insecure_channel(server.grpc) as channel,
        grpc.insecure_channel(server.admin) as admin_channel,
    ):
        vision, admin = vision_pb2_grpc.VisionStub(channel), repository_pb2_grpc.RepositoryStub(admin_channel)
        write(tmp_path / "models/m/2", int(is_other))
        shadow = {"model": "m", "version": 2, "mode": pb.COMPARISON_MODE_SHADOW, "share": 1}
        admin.StartComparison(pb.StartComparisonRequest(**shadow, promote_if=_RULE), timeout=60)

        def status() -> pb.Comparison:
            (found,) = admin.Status(pb.StatusRequest(model="m"), timeout=20).comparisons
            return found

        def caption(number: int, version: int = 0) -> vision_pb2.CaptionResponse:
            raw = {"rgb": picture(number).tobytes(), "width": 1, "height": 1}
            return vision.Caption(vision_pb2.CaptionRequest(model="m", version=version, image={"raw": raw}), timeout=20)

        # Of calls that name the new version, no copies are made.
        others = {number: _words(caption(number, 2)) for number in range(_PICTURES)}
        ends, asked, captions = time.monotonic() + 60, 0, dict[int, tuple[str, ...]]()
        while (told := status()).state == pb.COMPARISON_STATE_RUNNING:
            assert time.monotonic() < ends, told
            for _ in range(8):
                number = asked % _PICTURES
                answer = caption(number)
                asked += 1
                if answer.version == 1:
                    # Callers get the serving version's words, as without a shadow.
                    assert captions.setdefault(number, _words(answer)) == _words(answer)
        assert told.max_probability_difference == 0
        if not is_other:
            assert (told.state, told.mean_edit_distance) == (pb.COMPARISON_STATE_PROMOTED, 0), told
            assert told.equal == told.answers >= 40
            assert not [*reports.iterdir()]
            return
        assert told.state == pb.COMPARISON_STATE_ROLLED_BACK, told
        assert told.equal < told.answers
        assert told.dropped == 0
        compared = [number % _PICTURES for number in range(told.answers)]
        edits = [_distance(captions[number], others[number]) for number in compared]
        assert told.mean_edit_distance == pytest.approx(sum(edits) / len(edits))
        assert told.equal == edits.count(0)
        # Not merely that some word differs.
        assert len({*edits}) > 2
        while not (told := status()).report:
            assert time.monotonic() < ends, told
        page = Path(told.report).read_text()
        assert page.count("data:image/png;base64,") == 3
        assert any(f"<td>{' '.join(words)}<td>" in page for words in captions.values())
