"""Checks sessions against the contracts of the ONNX files and runs them by tensor name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.class_activation import FEATURE_MAP
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, DECODER_FILE, DECODER_TOP_K, ENCODER_FILE
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import Array, Session, TensorSpec

IMAGE = "image"
PROBABILITIES: Final = "probabilities"
CLASSIFIER_OUTPUTS = (PROBABILITIES, "logits", "features")
# Of a classifier or an encoder that was exported with reference pictures; the server keeps it to itself.
DRIFT_FEATURES = "drift_features"

# A state or feature between runs: an array in host memory, or a tensor on a device.
D = TypeVar("D")
# Runs a graph. Takes its inputs in host memory, inputs that an earlier run kept, and the names of outputs to return in
# host memory and of outputs to keep for the next run; returns both kinds of outputs by name.
Run = Callable[
    [Session, Mapping[str, Array], Mapping[str, D], Sequence[str], Sequence[str]],
    tuple[Mapping[str, Array], Mapping[str, D]],
]


class ClassifierGraph:
    """model.onnx: image uint8 [N,H,W,3] -> probabilities [N,K], logits [N,K], features [N,D], all float32.

    With heatmaps in the manifest it has feature_map [N,D,rows,columns] as well, with reference pictures drift_features
    [N,E]. The session returns both only if they are asked for by name.

    Raises:
        ModelRefused: Inputs or outputs differ from the manifest or the contract.
    """

    def __init__(self, session: Session, manifest: pb.Manifest) -> None:
        self.session = session
        check_image_input(session, manifest.input, CLASSIFIER_FILE)
        spec = manifest.classifier
        classes, features, maps = len(spec.labels), spec.feature_size, spec.heatmaps
        outputs: dict[str, tuple[int | None, ...]]
        outputs = {"probabilities": (classes,), "logits": (classes,), "features": (features,)}
        on_request = _drift_row(manifest)
        if maps.rows:
            # Features need not be the map's means: of a network that could not be divided, they are its logits.
            on_request[FEATURE_MAP] = (self._channels(), maps.rows, maps.columns)
        check_tensors((*session.outputs, *session.on_request), outputs | on_request, CLASSIFIER_FILE)
        for name in on_request:
            session.return_on_request(name)

    def _channels(self) -> int | None:
        """Return D of the feature map, which the weights of its heatmaps tell as well."""
        outputs = (*self.session.outputs, *self.session.on_request)
        shape = next((_row_shape(spec) for spec in outputs if spec.name == FEATURE_MAP), ())
        return shape[0] if shape else None

    def run(self, images: Pixels) -> dict[str, Array]:
        """Classify uint8 pictures [N,H,W,3]; returns all outputs by name."""
        return self.session.run({IMAGE: images}, CLASSIFIER_OUTPUTS)


@dataclass(frozen=True)
class Step(Generic[D]):
    """Outputs of a decoder step of R rows: the best k tokens [R,k], best first, and the next state.

    Attention [R,P] and all log-probabilities [R,V] only on request.
    """

    top_ids: Array
    top_log_probs: Array
    state: list[D]
    attention: Array | None = None
    log_probs: Array | None = None


class Captioner(Generic[D]):
    """encoder.onnx and decoder.onnx of one captioner, wired by the names of their tensors.

    Args:
        encoder: The encoder.
        decoder: The decoder.
        manifest: The model's manifest.
        run: Runs either graph; it decides where states and features are between runs.

    Raises:
        ModelRefused: The graphs do not fit the contract or each other.
    """

    def __init__(self, encoder: Session, decoder: Session, manifest: pb.Manifest, run: Run[D]) -> None:
        self.encoder, self.decoder, self.manifest = encoder, decoder, manifest
        self._run = run
        check_image_input(encoder, manifest.input, ENCODER_FILE)
        given = {spec.name: spec for spec in encoder.outputs}
        self.state_names = [name for name in given if name.startswith("state_")]
        self.feature_names = [name for name in given if name.startswith("feature_")]
        self._first_outputs = ["first_log_probs"] if "first_log_probs" in given else []
        check_tensors(encoder.outputs, _drift_row(manifest), ENCODER_FILE)
        self._watched_outputs = [*_drift_row(manifest)]
        taken = {spec.name: spec for spec in decoder.inputs}
        expected = {"token", *self.state_names, *self.feature_names}
        if set(taken) != expected or not self.state_names:
            raise ModelRefused(
                f"{DECODER_FILE} takes {sorted(taken)}, the encoder and the contract give {sorted(expected)}"
            )
        if bool(self._first_outputs) == manifest.captioner.HasField("start_id"):
            raise ModelRefused("captioner.start_id must be given exactly when the encoder has no first_log_probs")
        vocabulary = len(manifest.captioner.vocabulary)
        self.top_k = min(DECODER_TOP_K, vocabulary)
        outputs: dict[str, tuple[int | None, ...]] = {
            "log_probs": (vocabulary,),
            "top_log_probs": (self.top_k,),
            "top_ids": (self.top_k,),
            **{f"next_{name}": _row_shape(given[name]) for name in self.state_names},
        }
        has = {spec.name for spec in decoder.outputs}
        self.attention_size = manifest.captioner.attention_rows * manifest.captioner.attention_columns
        if ("attention" in has) != (self.attention_size > 0):
            raise ModelRefused("captioner.attention_rows and attention_columns do not fit the decoder's outputs")
        if self.attention_size:
            outputs["attention"] = (self.attention_size,)
        check_tensors(decoder.outputs, outputs, DECODER_FILE)
        self._next_names = [f"next_{name}" for name in self.state_names]

    def replaced(self, *, encoder: Session | None = None, decoder: Session | None = None) -> "Captioner[D]":
        """Return the captioner with other sessions of its graphs."""
        return Captioner(encoder or self.encoder, decoder or self.decoder, self.manifest, self._run)

    def encode(self, images: Pixels) -> tuple[list[D], list[D], Array | None]:
        """Encode uint8 pictures [N,H,W,3]: states, features, and first_log_probs [N,V] if the picture is step 0."""
        return self.encode_on(self.encoder, images)

    def encode_watched(self, images: Pixels) -> tuple[list[D], list[D], Array | None, Array | None]:
        """Encode as `encode`, and return drift_features [N,E] as well, if the captioner has reference pictures."""
        return self._encode(self.encoder, images, self._watched_outputs)

    def encode_on(self, encoder: Session, images: Pixels) -> tuple[list[D], list[D], Array | None]:
        """Encode on `encoder`, another session of the encoder's graph."""
        return self._encode(encoder, images, ())[:3]

    def _encode(
        self, encoder: Session, images: Pixels, watched: Sequence[str]
    ) -> tuple[list[D], list[D], Array | None, Array | None]:
        kept = [*self.state_names, *self.feature_names]
        out, tensors = self._run(encoder, {IMAGE: images}, {}, [*self._first_outputs, *watched], kept)
        state, features = [tensors[name] for name in self.state_names], [tensors[name] for name in self.feature_names]
        return state, features, out.get("first_log_probs"), out.get(DRIFT_FEATURES)

    def step(
        self,
        tokens: Array,
        state: Sequence[D],
        features: Sequence[D],
        *,
        attention: bool = False,
        log_probs: bool = False,
    ) -> Step[D]:
        """Run one step on tokens int64 [R] and the rows' state and features, in the encoder's order."""
        given = dict(zip(self.state_names, state, strict=True))
        given.update(zip(self.feature_names, features, strict=True))
        wanted = ["top_ids", "top_log_probs"]
        if attention and self.attention_size:
            wanted.append("attention")
        if log_probs:
            wanted.append("log_probs")
        out, tensors = self._run(self.decoder, {"token": tokens}, given, wanted, self._next_names)
        next_state = [tensors[name] for name in self._next_names]
        return Step(out["top_ids"], out["top_log_probs"], next_state, out.get("attention"), out.get("log_probs"))


class CaptionerGraphs(Captioner[Array]):
    """A captioner whose states and features are in host memory between runs."""

    def __init__(self, encoder: Session, decoder: Session, manifest: pb.Manifest) -> None:
        super().__init__(encoder, decoder, manifest, _run_in_host_memory)


def _run_in_host_memory(
    session: Session,
    host: Mapping[str, Array],
    given: Mapping[str, Array],
    fetched: Sequence[str],
    kept: Sequence[str],
) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
    out = session.run({**host, **given}, [*fetched, *kept])
    return out, out


def check_image_input(session: Session, recipe: pb.ImageInput, file: str) -> None:
    """Raise ModelRefused unless a graph takes `image` alone, uint8 [N,H,W,3] of the recipe's size."""
    shape = (recipe.height, recipe.width, 3)
    if [spec.name for spec in session.inputs] != [IMAGE]:
        raise ModelRefused(f"{file} takes {[spec.name for spec in session.inputs]}, expected ['image']")
    spec = session.inputs[0]
    if spec.dtype != np.uint8 or _row_shape(spec) != shape or isinstance(spec.shape[0], int):
        raise ModelRefused(
            f"{file}: image is {spec.dtype} {list(spec.shape)}, expected uint8 [N, {shape[0]}, {shape[1]}, 3]"
        )


def _drift_row(manifest: pb.Manifest) -> dict[str, tuple[int | None, ...]]:
    """Return the shape of a row of drift_features by its name; nothing without reference pictures."""
    return {DRIFT_FEATURES: (manifest.drift.features,)} if manifest.drift.pictures else {}


def check_tensors(specs: Sequence[TensorSpec], rows: Mapping[str, tuple[int | None, ...]], file: str) -> None:
    """Raise ModelRefused unless a graph has these tensors, with these shapes of rows; None is any size."""
    found = {spec.name: spec for spec in specs}
    if missing := sorted(rows.keys() - found.keys()):
        raise ModelRefused(f"{file} has no tensor {missing[0]!r}")
    for name, shape in rows.items():
        if _row_shape(found[name]) != shape:
            raise ModelRefused(
                f"{file}: {name} is {list(found[name].shape)}, expected [N, {', '.join(map(str, shape))}]"
            )


def _row_shape(spec: TensorSpec) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in spec.shape[1:])
