"""Binds sessions to the contracts of the ONNX files (DESIGN: contracts on disk) and refuses files that break them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.images import Pixels
from resonnx_server.runtime.manifest import CLASSIFIER_FILE, DECODER_FILE, DECODER_TOP_K, ENCODER_FILE
from resonnx_server.runtime.session import Array, Session, TensorSpec

IMAGE = "image"
CLASSIFIER_OUTPUTS = ("probabilities", "logits", "features")


class ClassifierGraph:
    """model.onnx: image uint8 [N,H,W,3] -> probabilities [N,K], logits [N,K], features [N,D], all float32.

    Raises:
        ModelRefused: The graph has other inputs or outputs than the manifest and the contract say.
    """

    def __init__(self, session: Session, manifest: pb.Manifest) -> None:
        self.session = session
        _check_image_input(session, manifest.input, CLASSIFIER_FILE)
        classes = len(manifest.classifier.labels)
        _check_tensors(
            session.outputs,
            {"probabilities": (classes,), "logits": (classes,), "features": (manifest.classifier.feature_size,)},
            CLASSIFIER_FILE,
        )

    def run(self, images: Pixels) -> dict[str, Array]:
        """Classify uint8 pictures [N,H,W,3]; returns all outputs by name."""
        return self.session.run({IMAGE: images}, CLASSIFIER_OUTPUTS)


@dataclass(frozen=True)
class Step:
    """One decoder step of R rows: the best tokens [R,k] (best first) and the next state.

    All log-probabilities [R,V] and attention [R,P] are there if asked for.
    """

    top_ids: Array
    top_log_probs: Array
    state: list[Array]
    attention: Array | None = None
    log_probs: Array | None = None


class CaptionerGraphs:
    """encoder.onnx and decoder.onnx of one captioner, wired by the names of their tensors.

    Raises:
        ModelRefused: The graphs do not fit the contract or each other.
    """

    def __init__(self, encoder: Session, decoder: Session, manifest: pb.Manifest) -> None:
        self.encoder, self.decoder = encoder, decoder
        _check_image_input(encoder, manifest.input, ENCODER_FILE)
        given = {spec.name: spec for spec in encoder.outputs}
        self._states = [name for name in given if name.startswith("state_")]
        self._features = [name for name in given if name.startswith("feature_")]
        self._gives_first = "first_log_probs" in given
        taken = {spec.name: spec for spec in decoder.inputs}
        expected = {"token", *self._states, *self._features}
        if set(taken) != expected or not self._states:
            raise ModelRefused(
                f"{DECODER_FILE} takes {sorted(taken)}, the encoder and the contract give {sorted(expected)}"
            )
        if self._gives_first == manifest.captioner.HasField("start_id"):
            raise ModelRefused("captioner.start_id must be given exactly when the encoder has no first_log_probs")
        vocabulary = len(manifest.captioner.vocabulary)
        self.top_k = min(DECODER_TOP_K, vocabulary)
        outputs: dict[str, tuple[int | None, ...]] = {
            "log_probs": (vocabulary,),
            "top_log_probs": (self.top_k,),
            "top_ids": (self.top_k,),
            **{f"next_{name}": _row_shape(given[name]) for name in self._states},
        }
        has = {spec.name for spec in decoder.outputs}
        self.attention_size = manifest.captioner.attention_rows * manifest.captioner.attention_columns
        if ("attention" in has) != (self.attention_size > 0):
            raise ModelRefused("captioner.attention_rows and attention_columns do not fit the decoder's outputs")
        if self.attention_size:
            outputs["attention"] = (self.attention_size,)
        _check_tensors(decoder.outputs, outputs, DECODER_FILE)
        self.state_specs = [given[name] for name in self._states]
        self.feature_specs = [given[name] for name in self._features]
        self._step_outputs = ["top_ids", "top_log_probs", *(f"next_{name}" for name in self._states)]

    def encode(self, images: Pixels) -> tuple[list[Array], list[Array], Array | None]:
        """Encode uint8 pictures [N,H,W,3] to states, features, and first_log_probs [N,V] if the picture is step 0."""
        out = self.encoder.run({IMAGE: images})
        first = out["first_log_probs"] if self._gives_first else None
        return [out[name] for name in self._states], [out[name] for name in self._features], first

    def step(
        self,
        tokens: Array,
        state: Sequence[Array],
        features: Sequence[Array],
        *,
        attention: bool = False,
        log_probs: bool = False,
    ) -> Step:
        """Run one step: tokens int64 [R] with the rows' state and features in the encoder's order."""
        feeds = {"token": tokens, **dict(zip(self._states, state, strict=True))}
        feeds.update(zip(self._features, features, strict=True))
        wanted = self._step_outputs
        if attention and self.attention_size:
            wanted = [*wanted, "attention"]
        if log_probs:
            wanted = [*wanted, "log_probs"]
        out = self.decoder.run(feeds, wanted)
        next_state = [out[f"next_{name}"] for name in self._states]
        return Step(out["top_ids"], out["top_log_probs"], next_state, out.get("attention"), out.get("log_probs"))


def _check_image_input(session: Session, recipe: pb.ImageInput, file: str) -> None:
    shape = (recipe.height, recipe.width, 3)
    if [spec.name for spec in session.inputs] != [IMAGE]:
        raise ModelRefused(f"{file} takes {[spec.name for spec in session.inputs]}, expected ['image']")
    spec = session.inputs[0]
    if spec.dtype != np.uint8 or _row_shape(spec) != shape or isinstance(spec.shape[0], int):
        raise ModelRefused(
            f"{file}: image is {spec.dtype} {list(spec.shape)}, expected uint8 [N, {shape[0]}, {shape[1]}, 3]"
        )


def _check_tensors(specs: Sequence[TensorSpec], rows: dict[str, tuple[int | None, ...]], file: str) -> None:
    found = {spec.name: spec for spec in specs}
    if missing := sorted(rows.keys() - found.keys()):
        raise ModelRefused(f"{file} has no output {missing[0]!r}")
    for name, shape in rows.items():
        if _row_shape(found[name]) != shape:
            raise ModelRefused(
                f"{file}: {name} is {list(found[name].shape)}, expected [N, {', '.join(map(str, shape))}]"
            )


def _row_shape(spec: TensorSpec) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in spec.shape[1:])
