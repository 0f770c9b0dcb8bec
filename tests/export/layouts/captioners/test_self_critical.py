"""ruotianluo's captioners, as test_tutorials.py has others; their beams, and what is refused."""

from pathlib import Path

import pytest
import torch
from resonnx_export.layouts.captioners import recognise_captioner
from resonnx_export.vocabulary import Vocabulary, load_vocabulary
from resonnx_proto.v1 import manifest_pb2 as pb
from torch import nn

from ....conftest import StartServer
from ...caption_exports import (
    PICTURES,
    RUOTIANLUO,
    SIZE,
    Written,
    assert_same_captions,
    assert_served,
    export,
    exported,
)
from ..caption_sources.randomness import normalised, pictures
from ..caption_sources.resnet import Net
from .caption_checkpoints import self_critical

pytestmark = pytest.mark.usefixtures("torch_seeded")


@pytest.mark.parametrize(
    ("kind", "more", "caffe"),
    [
        pytest.param("show_tell", {"layers": 2}, True, marks=pytest.mark.slow),
        pytest.param("show_tell", {"rnn": "GRU"}, False, marks=pytest.mark.slow),
        pytest.param("fc", {}, True, marks=pytest.mark.slow),
        pytest.param("newfc", {}, True, marks=pytest.mark.slow),
        pytest.param("att2in", {}, True, marks=pytest.mark.slow),
        pytest.param("att2in2", {"use_bn": 1}, True, marks=pytest.mark.slow),
        pytest.param("updown", {"use_bn": 2}, True, marks=pytest.mark.slow),
        pytest.param("updown", {}, False, marks=pytest.mark.slow),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
@torch.no_grad()
def test_ruotianluo(
    tmp_path: Path, start_server: StartServer, kind: str, more: dict[str, int | str], caffe: bool
) -> None:
    net, model, files, infos = self_critical(tmp_path, kind, caffe=caffe, **more)
    version = exported(tmp_path, files, infos, "--caffe-resnet" if caffe else "--torchvision-resnet")
    spec = version.manifest.captioner
    assert version.manifest.source.layout == "ruotianluo"
    assert (spec.start_id, spec.end_id, spec.pad_id, spec.unknown_id) == (0, 0, 0, len(RUOTIANLUO) - 1)
    assert spec.max_tokens == (16 if kind in ("show_tell", "fc") else 20)
    assert (spec.beam_width, spec.finished_beams) == (1, pb.CaptionerSpec.FINISHED_BEAMS_REPLACE)
    images = pictures(PICTURES, SIZE, 2)
    written = Written(*model.sample(net.grid(normalised(images)), spec.max_tokens))
    same = assert_same_captions(version, images, written)
    assert_served(start_server, tmp_path, images, written, version.manifest, same)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("fc", marks=pytest.mark.slow),
        pytest.param("newfc", marks=pytest.mark.slow),
        pytest.param("updown", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_ruotianluos_beams_may_not_say_unk(tmp_path: Path, start_server: StartServer, kind: str) -> None:
    net, model, files, infos = self_critical(tmp_path, kind, caffe=True)
    unknown = RUOTIANLUO.index("UNK")
    model.logit.bias[unknown] += 2
    torch.save(model.state_dict(), files[0])
    version = exported(tmp_path, files, infos, "--caffe-resnet")
    spec = version.manifest.captioner
    # FCModel does not know its vocabulary, so it never finds UNK.
    suppress = kind != "fc"
    assert list(spec.beam_forbidden_ids) == ([unknown] if suppress else [])
    images = pictures(20, SIZE, 2)
    grids = net.grid(normalised(images))

    def search(suppress: bool) -> list[list[int]]:
        return [model.beam_search(grid[None], 3, spec.max_tokens, suppress=suppress) for grid in grids]

    found = search(suppress)
    assert sum(unknown in caption for caption in search(False)) >= 3
    ids = nn.utils.rnn.pad_sequence([torch.tensor(caption) for caption in found], True, spec.end_id)
    assert_served(
        start_server, tmp_path, images, Written(ids, torch.zeros(0)), version.manifest, range(20), beam_width=3
    )


def test_a_vocabulary_that_does_not_end_in_unk_keeps_its_last_word(tmp_path: Path) -> None:
    _, _, files, infos = self_critical(tmp_path, "newfc", caffe=True)
    vocabulary = load_vocabulary(infos)
    words = ("<end>", "UNK", *vocabulary.words[2:-1], "last")
    source = recognise_captioner(files, Vocabulary(words, vocabulary.options), caffe_resnet=True)
    assert source.spec.unknown_id == 1
    assert not source.spec.beam_forbidden_ids


def test_ruotianluo_refusals(tmp_path: Path) -> None:
    def refused(kind: str, said: str, *options: object, net: bool = True, **opt: object) -> None:
        _, _, files, infos = self_critical(tmp_path, kind, caffe=True, options=opt)
        result = export(tmp_path, files if net else files[:1], infos, *options)
        assert result.exit_code == 2, result.output
        assert said in result.stderr
        assert not (tmp_path / "models").exists()

    refused("updown", "has no CNN", "--caffe-resnet", net=False)
    refused("updown", "keys do not record whether it is Caffe's")
    refused("updown", "trained on region features (data/cocobu_att)", "--caffe-resnet", input_att_dir="data/cocobu_att")
    refused("fc", "trained on region features (data/cocobu_fc)", "--caffe-resnet", input_fc_dir="data/cocobu_fc")
    refused("att2in2", "trained on region features (use_box)", "--caffe-resnet", use_box=1)
    refused("att2in2", "features of length 1", "--caffe-resnet", norm_att_feat=1)
    _, _, files, infos = self_critical(tmp_path, "fc", caffe=True)
    torch.save(Net(deep=False).state_dict(), files[1])
    result = export(tmp_path, files, infos, "--caffe-resnet")
    assert "trained on 256 features; the ResNet given has 64" in result.stderr
    _, model, files, infos = self_critical(tmp_path, "show_tell", caffe=True)
    torch.save({**model.state_dict(), "core.weight_ih_l0_reverse": torch.zeros(128, 24)}, files[0])
    assert "unexpected: cells.weight_ih_l0_reverse" in export(tmp_path, files, infos, "--caffe-resnet").stderr
    _, _, files, infos = self_critical(tmp_path, "fc", caffe=True)
    torch.save({"logit.weight": torch.zeros(3, 4), "logit.bias": torch.zeros(3)}, files[0])
    result = export(tmp_path, files, infos, "--caffe-resnet")
    assert "caption_model (fc) is not exported" in result.stderr


def test_caffes_resnet_is_another_network(tmp_path: Path) -> None:
    _, _, files, infos = self_critical(tmp_path, "fc", caffe=True)
    networks = [
        recognise_captioner(files, load_vocabulary(infos), caffe_resnet=caffe).recognised for caffe in (True, False)
    ]
    assert networks[0].architecture == f"{networks[1].architecture}_caffe"
    image = normalised(pictures(2, SIZE, 3))
    with torch.no_grad():
        first, second = (each.network.trunk.features_map(image) for each in networks)
    assert (first - second).abs().max() > 0.01 * second.abs().max()
