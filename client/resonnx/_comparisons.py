"""Comparisons of a model's new version with the one that serves: requests, responses, status."""

from dataclasses import dataclass
from typing import Final, Literal

from resonnx_proto.v1 import repository_pb2 as pb

Mode = Literal["shadow", "canary"]

_MODES: Final[dict[Mode, pb.ComparisonMode]] = {
    "shadow": pb.COMPARISON_MODE_SHADOW,
    "canary": pb.COMPARISON_MODE_CANARY,
}
_STATE_PREFIX: Final = "COMPARISON_STATE_"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of a version with the one that serves. An answer is that for one picture.

    Attributes:
        model: The model's name.
        version: The version to be proven.
        serving_version: The one that serves.
        mode: "shadow": copies of requests are run on the new version; "canary": it answers a share of the callers.
        share: Of requests (shadow) or callers (canary), above 0, at most 1.
        promote_if: The rule; empty if the decision is left to `promote` and `roll_back`.
        state: "running", "promoted", "rolled_back" or "ended".
        reason: The conditions that are not met yet, or why it has ended.
        answers: Compared answers.
        equal: Those of them that are equal: the same best class, or the same words.
        errors: Answers on which the new version failed.
        dropped: Pictures of chosen requests that were not compared, as too many waited.
        waiting: Pictures that wait for an idle device.
        max_probability_difference: Largest difference of a probability; 0 for captioners.
        mean_probability_difference: Mean over answers of the largest difference of a probability; 0 for captioners.
        mean_edit_distance: Mean edit distance of captions in words; 0 for classifiers.
        compute_ratio: Compute time at equal batch size, as a multiple; 0 while unknown.
        p99_ms: 99th percentile of the new version's latency in a canary; 0 while unknown.
        serving_p99_ms: The same of the serving version.
        calls: Calls that the new version answered in a canary.
        serving_calls: Calls of the serving version meanwhile.
        report: Path of the report on the server; empty if there is none.
    """

    model: str
    version: int
    serving_version: int
    mode: str
    share: float
    promote_if: str
    state: str
    reason: str
    answers: int
    equal: int
    errors: int
    dropped: int
    waiting: int
    max_probability_difference: float
    mean_probability_difference: float
    mean_edit_distance: float
    compute_ratio: float
    p99_ms: float
    serving_p99_ms: float
    calls: int
    serving_calls: int
    report: str

    @property
    def agreement(self) -> float:
        """Share of equal answers among those compared; 0 if there are none."""
        return self.equal / self.answers if self.answers else 0.0


def start_request(
    model: str, version: int, mode: Mode, share: float | None, promote_if: str, keep: int | None
) -> pb.StartComparisonRequest:
    """Build a request; raises ValueError if the mode is not known."""
    if mode not in _MODES:
        raise ValueError(f"mode {mode!r} is neither 'shadow' nor 'canary'")
    return pb.StartComparisonRequest(
        model=model, version=version, mode=_MODES[mode], share=share or 0, promote_if=promote_if, keep=keep
    )


def promote_request(model: str) -> pb.PromoteRequest:
    """Build a request."""
    return pb.PromoteRequest(model=model)


def rollback_request(model: str) -> pb.RollbackRequest:
    """Build a request."""
    return pb.RollbackRequest(model=model)


def status_request(model: str | None) -> pb.StatusRequest:
    """Build a request for one model, or for all."""
    return pb.StatusRequest(model=model or "")


def comparison(response: pb.StartComparisonResponse | pb.PromoteResponse | pb.RollbackResponse) -> Comparison:
    """Read a response."""
    return _read(response.comparison)


def comparisons(response: pb.StatusResponse) -> tuple[Comparison, ...]:
    """Read a response."""
    return tuple(_read(each) for each in response.comparisons)


def _read(message: pb.Comparison) -> Comparison:
    values = {name: getattr(message, name) for name in Comparison.__dataclass_fields__}
    modes = {number: name for name, number in _MODES.items()}
    values["mode"] = modes.get(message.mode, "unknown")
    state = pb.ComparisonState.Name(message.state) if message.state in pb.ComparisonState.values() else ""
    values["state"] = state.removeprefix(_STATE_PREFIX).lower() or "unknown"
    return Comparison(**values)
