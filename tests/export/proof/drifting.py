"""A small captioner with attention whose recurrence amplifies rounding, and its traced files."""

from dataclasses import dataclass

from resonnx_export.graphs.trace import trace_decoder, trace_encoder
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks.captioner import Captioner, CaptionerConfig
from resonnx_export.networks.resnet import ResNetConfig
from resonnx_export.proof.reference import settle_batch_norm
from resonnx_export.publish.manifest import new_manifest
from resonnx_proto.v1 import manifest_pb2 as pb
from torch import randn

from ..conftest import seeded

WORDS = ("<pad>", "<start>", "<end>", "<unk>", *(f"word{i}" for i in range(196)))
STEPS = 50


@dataclass(frozen=True)
class Drifting:
    network: Captioner
    manifest: pb.Manifest
    files: dict[str, bytes]


def drifting_captioner(recipe: pb.ImageInput) -> Drifting:
    """Make a captioner of 50 tokens with recurrent weights 20 times the usual ones."""
    with seeded(3):
        trunk = ResNetConfig("basic", (1, 1), planes=8, num_classes=0, stem="small")
        network = Captioner(CaptionerConfig(trunk, len(WORDS), 8, 64, 8))
        settle_batch_norm(network.trunk, [randn(4, 3, 32, 32) for _ in range(2)])
    network.fc.weight.data *= 8
    network.decode_step.weight_hh.data *= 20
    network.decode_step.weight_ih.data *= 3
    network.attention.full_att.weight.data *= 12
    network.eval().requires_grad_(False)
    spec = pb.CaptionerSpec(
        vocabulary=WORDS, start_id=1, end_id=2, max_tokens=STEPS, attention_rows=16, attention_columns=16
    )
    recognised = RecognisedCheckpoint("resonnx-captioner", "small", network, ("float32",))
    files = {"encoder.onnx": trace_encoder(network, recipe), "decoder.onnx": trace_decoder(network, recipe)}
    return Drifting(network, new_manifest(recognised, [], recipe, spec), files)
