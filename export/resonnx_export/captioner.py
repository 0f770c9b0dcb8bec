"""Exports a ResNet+LSTM captioner, as classifier.py does a classifier: two graphs, and captions proved word by word."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.manifest import DECODER_FILE, ENCODER_FILE

from resonnx_export import package
from resonnx_export.checkpoint import load_checkpoint
from resonnx_export.errors import BadInput
from resonnx_export.goldens import captioner_golden
from resonnx_export.layouts import Recognised, recognise
from resonnx_export.manifest import new_manifest
from resonnx_export.names import END, PAD, START, UNKNOWN
from resonnx_export.networks import Captioner
from resonnx_export.package import Exported, Target
from resonnx_export.precision import measure_captioner, reduced_bounds
from resonnx_export.progress import Tell
from resonnx_export.proofs import prove_captioner
from resonnx_export.recipe import check_pictures
from resonnx_export.trace import trace_decoder, trace_encoder

# How often export_captioner tells.
STAGES: Final = 9
_MEASURED_PICTURES: Final = 8
_SEED: Final = 2000


@dataclass(frozen=True)
class CaptionerSettings:
    """What a checkpoint does not say.

    Attributes:
        input: How pictures become the network's input.
        vocabulary: The word of each token id, with <start> and <end>, and <pad> and <unk> where there are such.
        max_tokens: A caption's greatest length, the end token included.
        allow_reduced: Whether providers may compute in bf16, fp16 and TF32.
        samples: Pictures that the model is meant for; the check pictures are synthetic without.
    """

    input: pb.ImageInput
    vocabulary: tuple[str, ...]
    max_tokens: int
    allow_reduced: bool = False
    samples: Sequence[Image.Image] = ()


def export_captioner(file: Path, settings: CaptionerSettings, target: Target, tell: Tell) -> Exported:
    """Export a checkpoint file to a new version in the model repository. Raises as export_classifier does."""
    folder = package.plan(target)
    tell(f"reading {file.name}")
    checkpoint = load_checkpoint(file)
    recognised = recognise(checkpoint.state_dict)
    network = _checked(recognised, settings)
    spec = _spec(network, settings)
    manifest = new_manifest(recognised, [checkpoint.sha256], settings.input, spec)

    tell("tracing")
    encoder = trace_encoder(network, settings.input)
    decoder = trace_decoder(network, settings.input)
    manifest.parity.CopyFrom(prove_captioner(encoder, decoder, network, manifest, settings.samples, tell))
    if settings.allow_reduced:
        tell("measuring reduced precision")
        images = check_pictures(settings.input, _MEASURED_PICTURES, _SEED, settings.samples)
        for name, deviations in measure_captioner(network, images, settings.input, spec).items():
            manifest.precisions.extend(reduced_bounds(name, deviations))
    tell("golden examples")
    golden = captioner_golden(network, settings.input, spec, settings.samples)

    tell(f"writing {folder}")
    files = package.version_files({ENCODER_FILE: encoder, DECODER_FILE: decoder}, manifest, golden)
    package.write(folder, files, overwrite=target.overwrite)
    return Exported(folder, manifest, {name: len(content) for name, content in files.items()})


def _checked(recognised: Recognised, settings: CaptionerSettings) -> Captioner:
    network = recognised.network
    if not isinstance(network, Captioner):
        raise BadInput(f"the checkpoint is a classifier (layout {recognised.layout}), not a captioner")
    if network.config.trunk.in_channels != 3:
        raise BadInput(
            f"the network takes pictures of {network.config.trunk.in_channels} channels; only RGB is exported"
        )
    if len(settings.vocabulary) != network.config.vocabulary_size:
        raise BadInput(
            f"the vocabulary has {len(settings.vocabulary)} words, the network {network.config.vocabulary_size}"
        )
    if missing := [word for word in (START, END) if word not in settings.vocabulary]:
        raise BadInput(f"the vocabulary lacks {' and '.join(missing)}")
    return network


def _spec(network: Captioner, settings: CaptionerSettings) -> pb.CaptionerSpec:
    rows, columns = _attention_grid(network, settings.input)
    words = settings.vocabulary
    start = words.index(START)
    spec = pb.CaptionerSpec(
        vocabulary=words,
        start_id=start,
        end_id=words.index(END),
        stripped_ids=[start],
        max_tokens=settings.max_tokens,
        beam_width=1,
        length_normalization=pb.CaptionerSpec.LENGTH_NORMALIZATION_NONE,
        attention_rows=rows,
        attention_columns=columns,
    )
    if PAD in words:
        spec.pad_id = words.index(PAD)
        spec.stripped_ids.append(spec.pad_id)
    if UNKNOWN in words:
        spec.unknown_id = words.index(UNKNOWN)
    return spec


@torch.no_grad()
def _attention_grid(network: Captioner, recipe: pb.ImageInput) -> tuple[int, int]:
    """Return the rows and columns of the positions that attention covers."""
    if (side := network.config.map_size) is not None:
        return side, side
    rows, columns = network.trunk.features_map(torch.zeros(1, 3, recipe.height, recipe.width)).shape[2:]
    return rows, columns
