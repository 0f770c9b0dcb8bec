"""Compares each task's graphs with PyTorch: a classifier's outputs; a captioner's two graphs and its captions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.graphs import IMAGE, CaptionerGraphs, ClassifierGraph
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, DECODER_FILE, ENCODER_FILE

from resonnx_export.errors import ParityFailed
from resonnx_export.networks.protocol import CaptionNetwork, Encoded
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.progress import Progress, silent
from resonnx_export.proof import reference
from resonnx_export.proof.captions import (
    CaptionBatch,
    caption_batches,
    caption_predictions,
    checked_pictures,
    prove_captions,
)
from resonnx_export.proof.drift import Rounding
from resonnx_export.proof.heatmaps import class_activation
from resonnx_export.proof.parity import BATCH_SIZES, Case, open_session, prove_graph
from resonnx_export.proof.predictions import ClassifierPredictions, Comparison, predictions_differ
from resonnx_export.proof.reference import StepTaken


@dataclass(frozen=True)
class Proof:
    """The checks for the manifest, and the predictions that were compared."""

    report: pb.ParityReport
    comparison: Comparison


def prove_classifier(
    files: Mapping[str, bytes],
    network: ClassifierNetwork,
    manifest: pb.Manifest,
    samples: Sequence[Image.Image] = (),
    progress: Progress = silent,
) -> Proof:
    """Check that model.onnx of `files` gives the outputs of the network (in eval mode) it was traced from.

    `samples` are typical pictures. Raises ParityFailed if an output differs, or the graph's inputs or outputs are not
    those of the manifest.
    """
    model = files[CLASSIFIER_FILE]
    try:
        ClassifierGraph(open_session(model), manifest)
    except ModelRefused as error:
        raise ParityFailed(f"the exported graph breaks the contract: {error}") from None
    progress("reference predictions")
    maps = class_activation(model, manifest)
    cases = []
    for size in BATCH_SIZES:
        images = check_pictures(manifest.input, size, seed=size, samples=samples)
        classified = reference.classify(network, images, manifest.input, manifest.classifier.activation, maps)
        if maps is not None and classified.feature_map is None:
            raise ParityFailed("no module of the network returns the feature map of its heatmaps")
        scale = float(np.abs(classified.probabilities).max())
        if manifest.classifier.activation != pb.ClassifierSpec.ACTIVATION_NONE:
            # Softmax multiplies a probability by at most exp(2 * max|delta logit|); sigmoid's slope is less.
            scale *= max(1.0, 2 * float(np.abs(classified.logits).max()))
        cases.append(Case(f"batch {size}", {IMAGE: images}, classified.named, {"probabilities": scale}))
    progress("ONNX Runtime's predictions")
    checks, outputs = prove_graph(CLASSIFIER_FILE, model, cases)
    expected = np.concatenate([case.expected["logits"] for case in cases])
    found = np.concatenate([each["logits"] for each in outputs])
    predictions = ClassifierPredictions(
        checked_pictures([case.feeds[IMAGE] for case in cases], samples),
        expected,
        found,
        predictions_differ(expected, found, manifest.classifier.activation),
    )
    bound = max(check.bound for check in checks if check.name.endswith(": logits"))
    report = pb.ParityReport(checks=checks, damaged_copy_rejected=True)
    return Proof(report, Comparison(predictions, bound))


def prove_captioner(
    files: Mapping[str, bytes],
    network: CaptionNetwork,
    manifest: pb.Manifest,
    samples: Sequence[Image.Image] = (),
    progress: Progress = silent,
) -> Proof:
    """Check encoder.onnx and decoder.onnx, separately and together; arguments and errors as prove_classifier."""
    encoder, decoder = files[ENCODER_FILE], files[DECODER_FILE]
    progress("PyTorch's captions")
    batches = caption_batches(network, manifest, samples)
    progress("ONNX Runtime's encoder")
    checks = prove_encoder(encoder, batches)
    progress("ONNX Runtime's decoder")
    checks += prove_decoder(decoder, batches)
    rounding = Rounding.of(checks)
    batches = [batch.with_drift(network, manifest.captioner, rounding) for batch in batches]
    progress("ONNX Runtime's captions")
    try:
        graphs = {
            optimise: CaptionerGraphs(
                open_session(encoder, optimise=optimise), open_session(decoder, optimise=optimise), manifest
            )
            for optimise in (True, False)
        }
    except ModelRefused as error:
        raise ParityFailed(f"the exported graphs break the contract: {error}") from None
    compared, written = prove_captions("captions", batches, lambda how, _: graphs[how], manifest.captioner)
    report = pb.ParityReport(checks=checks + compared, damaged_copy_rejected=True)
    bound = max(check.bound for check in compared)
    return Proof(report, Comparison(caption_predictions(batches, written, samples), bound))


def prove_encoder(encoder: bytes, batches: Sequence[CaptionBatch]) -> list[pb.ParityCheck]:
    """Check encoder.onnx against PyTorch's encodings. Raises ParityFailed."""
    cases = []
    for batch in batches:
        expected = batch.encoded.named()
        if batch.encoded.first_log_probs is not None:
            expected["first_log_probs"] = batch.encoded.first_log_probs
        cases.append(Case(f"batch {len(batch.pictures)}", {IMAGE: batch.pictures}, _arrays(expected)))
    return prove_graph(ENCODER_FILE, encoder, cases)[0]


def prove_decoder(decoder: bytes, batches: Sequence[CaptionBatch]) -> list[pb.ParityCheck]:
    """Check decoder.onnx at every step of PyTorch's captions, on PyTorch's states and tokens. Raises ParityFailed."""
    return prove_graph(DECODER_FILE, decoder, step_cases(batches), keep=False)[0]


def step_cases(batches: Sequence[CaptionBatch]) -> list[Case]:
    """Return PyTorch's inputs and outputs of every decoder step of each batch, which is their group."""
    return [
        _step_case(len(batch.pictures), number, len(batch.steps), step, batch.encoded.features)
        for batch in batches
        for number, step in enumerate(batch.steps, start=1)
    ]


def _step_case(rows: int, number: int, count: int, step: StepTaken, features: tuple[torch.Tensor, ...]) -> Case:
    log_probs, state, attention = step.stepped
    feeds = {"token": step.token, **Encoded(step.state, features).named()}
    expected = {"log_probs": log_probs, **{f"next_state_{i}": tensor for i, tensor in enumerate(state)}}
    if attention is not None:
        expected["attention"] = attention
    group = f"{rows} rows, steps 1 to {count}"
    return Case(f"{rows} rows, step {number}", _arrays(feeds), _arrays(expected), group=group)


def _arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
