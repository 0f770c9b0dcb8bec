"""The pages that tell of models and of comparisons of their versions: /v1/models and /v1/comparisons."""

from typing import Final

from aiohttp import web

from resonnx_server.errors import InvalidInput, ServerError
from resonnx_server.http.guard import CALLER
from resonnx_server.http.pages import Page
from resonnx_server.http.rest.failures import failure, json_response
from resonnx_server.http.rest.models.answers import compared, described, listed
from resonnx_server.inference.registry import Models
from resonnx_server.protocol.comparisons import ComparisonStatus

# Of the query of a model's page.
_VERSION: Final = "version"


class ModelPages:
    """The pages of models; each tells only of those that the caller may use.

    Args:
        models: The registry.
        comparisons: What comparisons have found.
    """

    def __init__(self, models: Models, comparisons: ComparisonStatus) -> None:
        self._models = models
        self._comparisons = comparisons
        self.pages = [
            Page("/v1/models", self._get_models, is_json=True),
            Page("/v1/models/{name}", self._get_model, is_json=True),
            Page("/v1/comparisons", self._get_comparisons, is_json=True),
        ]

    async def _get_models(self, request: web.Request) -> web.Response:
        caller, serving = CALLER.get(), {(model.name, model.version): model for model in self._models}
        found = [
            listed(each, serving.get((each.name, each.version)), self._models)
            for each in self._models.states()
            if caller.may_use(each.name)
        ]
        return json_response({"models": found})

    async def _get_model(self, request: web.Request) -> web.Response:
        name, caller = request.match_info["name"], CALLER.get()
        try:
            self._models.check(name, caller)
            with self._models.rejected.counting():
                version = _asked_version(request)
            model = self._models.find(name, version, caller=caller)
        except ServerError as error:
            return failure(error)
        states = (each for each in self._models.states() if (each.name, each.version) == (model.name, model.version))
        return json_response({**listed(next(states), model, self._models), **described(model)})

    async def _get_comparisons(self, request: web.Request) -> web.Response:
        found = self._comparisons.of(CALLER.get()).comparisons
        return json_response({"comparisons": [compared(each) for each in found]})


def _asked_version(request: web.Request) -> str:
    """Return the version in a request's query, a number or a label; "" for none. Raises InvalidInput."""
    for name in request.query:
        if name != _VERSION:
            raise InvalidInput(name[:64], f"is not an option of this page; {_VERSION} is")
    values = request.query.getall(_VERSION, [""])
    if len(values) > 1:
        raise InvalidInput(_VERSION, "is given more than once")
    return values[0]
