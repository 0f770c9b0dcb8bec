"""A new version of a captioner in shadow, with a real server: its captions are compared word by word."""

import time
from pathlib import Path

import grpc
import pytest
from resonnx_proto.v1 import manifest_pb2, repository_pb2_grpc, vision_pb2, vision_pb2_grpc
from resonnx_proto.v1 import repository_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import dump_golden
from resonnx_server.runtime.model_files.manifest import SCHEMA_VERSION, dump_manifest, sha256sums

from ..language import picture
from ..onnx_language import version_files

_RULE = "agreement>=0.95 and edit<=0.5 and n>=40"


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

        ends, asked, captions = time.monotonic() + 60, 0, dict[int, str]()
        while (told := status()).state == pb.COMPARISON_STATE_RUNNING:
            assert time.monotonic() < ends, told
            for _ in range(8):
                number = asked % 20
                raw = {"rgb": picture(number).tobytes(), "width": 1, "height": 1}
                request = vision_pb2.CaptionRequest(model="m", image={"raw": raw})
                answer = vision.Caption(request, timeout=20)
                asked += 1
                if answer.version == 1:
                    # Callers get the serving version's words, as without a shadow.
                    assert captions.setdefault(number, answer.captions[0].text) == answer.captions[0].text
        assert told.max_probability_difference == 0
        if not is_other:
            assert (told.state, told.mean_edit_distance) == (pb.COMPARISON_STATE_PROMOTED, 0), told
            assert told.equal == told.answers >= 40
            assert not [*reports.iterdir()]
            return
        assert told.state == pb.COMPARISON_STATE_ROLLED_BACK, told
        assert told.equal < told.answers
        assert told.mean_edit_distance > 0.5
        while not (told := status()).report:
            assert time.monotonic() < ends, told
        page = Path(told.report).read_text()
        assert page.count("data:image/png;base64,") == 3
        assert any(f"<td>{text}<td>" in page for text in captions.values())
