"""The part of a manifest that describes a video classifier."""

import math
import re
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb

SEQUENCE_FILE: Final = "sequence.onnx"
STEP_FILE: Final = "step.onnx"
# Of a clip after sampling: three minutes at 25 frames a second.
MAX_FRAMES: Final = 4500
MAX_FRAMES_PER_SECOND: Final = 1000.0
# Numbers of a tensor that one clip has between two steps, and such tensors.
_MAX_STATE: Final = 1 << 20
_MAX_STATES: Final = 256
_MAX_FEATURES: Final = 1 << 20
_STATE_NAME: Final = re.compile(r"state_\d{1,3}")
_Sampling = pb.VideoClassifierSpec.Sampling


def video_fault(manifest: pb.Manifest) -> str | None:
    """Return what is wrong with a video classifier's message, naming the field; None if nothing is."""
    if not manifest.HasField("video_classifier") or not manifest.video_classifier.labels:
        return "video_classifier.labels is empty"
    spec = manifest.video_classifier
    if spec.activation not in pb.ClassifierSpec.Activation.values():
        return f"video_classifier.activation {spec.activation} is not known"
    if not 1 <= spec.feature_size <= _MAX_FEATURES:
        return f"video_classifier.feature_size {spec.feature_size} is not within 1..{_MAX_FEATURES}"
    if not 1 <= spec.max_frames <= MAX_FRAMES:
        return f"video_classifier.max_frames {spec.max_frames} is not within 1..{MAX_FRAMES}"
    return _sampling_fault(spec.sampling) or _states_fault(spec)


def _sampling_fault(sampling: _Sampling) -> str | None:
    field, rule = "video_classifier.sampling", sampling.rule
    if rule not in _Sampling.Rule.values() or rule == _Sampling.RULE_UNSPECIFIED:
        return f"{field}.rule {rule} is not known"
    if rule in (_Sampling.RULE_EVERY, _Sampling.RULE_UNIFORM) and not 1 <= sampling.n <= MAX_FRAMES:
        return f"{field}.n {sampling.n} is not within 1..{MAX_FRAMES}"
    rate = sampling.frames_per_second
    if rule == _Sampling.RULE_TIME and not 0 < rate <= MAX_FRAMES_PER_SECOND:
        return f"{field}.frames_per_second {rate:g} is not above 0 and at most {MAX_FRAMES_PER_SECOND:g}"
    return None


def _states_fault(spec: pb.VideoClassifierSpec) -> str | None:
    if len(spec.states) > _MAX_STATES:
        return f"video_classifier.states has {len(spec.states)} entries; at most {_MAX_STATES}"
    if len({state.name for state in spec.states}) < len(spec.states):
        return "video_classifier.states has a name twice"
    for number, state in enumerate(spec.states):
        if _STATE_NAME.fullmatch(state.name) is None:
            return f"video_classifier.states[{number}].name {state.name[:32]!r} is not state_ and a number"
        if not 1 <= math.prod(state.shape) <= _MAX_STATE:
            return f"video_classifier.states[{number}].shape {list(state.shape)} is not of 1 to {_MAX_STATE} numbers"
    return None
