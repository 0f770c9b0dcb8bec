# Made by client/generate from ../aio/operations.py: edit that one.
"""Methods that describe, load and watch the server's models."""

from collections.abc import Generator

from resonnx_proto.v1 import vision_pb2

from resonnx._clients.blocking.connection import Connection
from resonnx._comparisons import (
    Comparison,
    Mode,
    comparison,
    comparisons,
    promote_request,
    rollback_request,
    start_request,
    status_request,
)
from resonnx._messages import model_info, model_request, model_summaries
from resonnx._operations import (
    health,
    health_request,
    load_request,
    repository_models,
    repository_request,
    unload_request,
)
from resonnx._results import Health, ModelInfo, ModelSummary, RepositoryModel
from resonnx._rpcs import (
    CHECK_HEALTH,
    COMPARISONS,
    GET_MODEL,
    LIST_MODELS,
    LOAD_MODEL,
    PROMOTE,
    REPOSITORY_INDEX,
    ROLLBACK,
    START_COMPARISON,
    UNLOAD_MODEL,
    WATCH_HEALTH,
)
from resonnx._transport.retry import ClientDefault, Timeout


class Operations(Connection):
    """Describes, loads and watches models."""

    def models(self, *, timeout_s: Timeout = ClientDefault.TIMEOUT) -> tuple[ModelSummary, ...]:
        """List the server's models."""
        return model_summaries(self._calls.unary(LIST_MODELS, vision_pb2.ListModelsRequest(), timeout_s))

    def model(
        self, name: str, version: int | str | None = None, *, timeout_s: Timeout = ClientDefault.TIMEOUT
    ) -> ModelInfo:
        """Describe a model.

        Args:
            name: NAME, NAME:VERSION or NAME:LABEL.
            version: Number or label of the version, unless `name` has it; None for the default version.
            timeout_s: Timeout of this call; default the client's, None for no limit.
        """
        return model_info(self._calls.unary(GET_MODEL, model_request(name, version), timeout_s))

    def health(
        self,
        model: str | None = None,
        version: int | str | None = None,
        *,
        timeout_s: Timeout = ClientDefault.TIMEOUT,
    ) -> Health:
        """Return whether the server, or a model, serves.

        Args:
            model: NAME, NAME:VERSION or NAME:LABEL; None for the server as a whole.
            version: Number or label of the version, unless `model` has it; None for the model as a whole.
            timeout_s: Timeout of this call; default the client's, None for no limit.

        Raises:
            NotFound: The server has no such model.
        """
        return health(self._calls.unary(CHECK_HEALTH, health_request(model, version), timeout_s))

    def watch_health(
        self, model: str | None = None, version: int | str | None = None, *, timeout_s: float | None = None
    ) -> Generator[Health]:
        """Watch whether the server, or a model, serves.

        Args:
            model: As in `health`; it need not exist.
            version: As in `health`.
            timeout_s: Limit of the whole watch in seconds; None for no limit.

        Yields:
            The state now, and each later one; UNKNOWN while there is no such model. It ends with Unavailable when the
            server stops.
        """
        return self._calls.stream(WATCH_HEALTH, health_request(model, version), health, timeout_s)

    def repository(
        self, *, ready: bool = False, timeout_s: Timeout = ClientDefault.TIMEOUT
    ) -> tuple[RepositoryModel, ...]:
        """List all versions in the server's model repository, unloaded and refused ones included.

        Args:
            ready: Only those that serve.
            timeout_s: Timeout of this call; default the client's, None for no limit.
        """
        return repository_models(self._calls.unary(REPOSITORY_INDEX, repository_request(ready), timeout_s))

    def load(self, name: str, *, timeout_s: float | None = None) -> None:
        """Load a model as its folder is now; return when its versions serve or are refused.

        The server must load on request (control_mode = explicit) and serve this method at the address of this client,
        usually that of its admin port. The load goes on if the call ends early.

        Args:
            name: The model's name.
            timeout_s: Timeout of this call in seconds; None for no limit.

        Raises:
            FailedPrecondition: A version was refused; what served before serves on.
            NotFound: The repository has no such model.
            PermissionDenied: The address or the key is not an administrator's.
        """
        self._calls.unary(LOAD_MODEL, load_request(name), timeout_s)

    def unload(self, name: str, *, timeout_s: float | None = None) -> None:
        """Stop serving a model; return when its requests are answered and its memory is free.

        Args:
            name: The model's name.
            timeout_s: Timeout of this call in seconds; None for no limit.

        Raises:
            NotFound: The repository has no such model.
            PermissionDenied: The address or the key is not an administrator's.
        """
        self._calls.unary(UNLOAD_MODEL, unload_request(name), timeout_s)

    def start_comparison(
        self,
        name: str,
        version: int,
        *,
        mode: Mode,
        share: float | None = None,
        promote_if: str = "",
        keep: int | None = None,
        timeout_s: float | None = None,
    ) -> Comparison:
        """Load a version beside the one that serves, and compare them on live traffic.

        Args:
            name: The model's name.
            version: Number of the version to be proven.
            mode: "shadow" runs copies of requests on it, "canary" lets it answer a share of the callers.
            share: Of requests or callers, above 0, at most 1; None for 0.1 (shadow) or 0.05 (canary).
            promote_if: E.g. "agreement>=0.99 and compute<=1.1x and n>=2000"; empty to decide by the next two methods.
            keep: Most disagreeing pictures to keep for the report of a rollback; None for the server's setting.
            timeout_s: Timeout of this call in seconds; None for no limit.

        Raises:
            FailedPrecondition: The version was refused.
            NotFound: There is no such model or version.
            PermissionDenied: The address or the key is not an administrator's.
        """
        request = start_request(name, version, mode, share, promote_if, keep)
        response = self._calls.unary(START_COMPARISON, request, timeout_s)
        return comparison(response)

    def promote(self, name: str, *, timeout_s: float | None = None) -> Comparison:
        """Let the version that is being compared answer calls that name no version; arguments as of `unload`."""
        response = self._calls.unary(PROMOTE, promote_request(name), timeout_s)
        return comparison(response)

    def roll_back(self, name: str, *, timeout_s: float | None = None) -> Comparison:
        """Unload the version that is being compared; arguments as of `unload`."""
        response = self._calls.unary(ROLLBACK, rollback_request(name), timeout_s)
        return comparison(response)

    def comparisons(
        self, name: str | None = None, *, timeout_s: Timeout = ClientDefault.TIMEOUT
    ) -> tuple[Comparison, ...]:
        """Return the comparisons under way, and the last one of each other model.

        Args:
            name: Only of this model.
            timeout_s: Timeout of this call; default the client's, None for no limit.
        """
        return comparisons(self._calls.unary(COMPARISONS, status_request(name), timeout_s))
