"""All comparisons of a server: their start, what follows from their verdicts, and what is told of them."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, TypeVar

from resonnx_server.comparison.comparable import check_comparable, check_rule
from resonnx_server.comparison.comparison import Comparison, Mode, Plan, State
from resonnx_server.comparison.verdict import Judgement, Verdict
from resonnx_server.errors import AlreadyExists, InvalidInput, NotFound, ServerError, Unavailable
from resonnx_server.inference.comparing import Compared
from resonnx_server.inference.model import Model
from resonnx_server.inference.registry import Models
from resonnx_server.inference.repository_control import RepositoryControl
from resonnx_server.memory.budget import Budget

_log = logging.getLogger(__name__)

# Ended comparisons that are still told of.
_MOST_ENDED: Final = 64
# How often it is looked at whether both versions still serve.
_LOOK_S: Final = 1.0

T = TypeVar("T")

# Takes an ended comparison that was rolled back, and writes its report.
Report = Callable[[Comparison], None]


class Comparisons:
    """The comparisons by model. Event loop only; inference sees it as Comparing.

    Args:
        models: The registry, which has the repository's control.
        budget: Copies and kept pictures are charged to it.
        most_kept: Most disagreeing pictures of a comparison that may be kept, if the model's settings do not say.
        report: Writes the report of a rollback; called on a thread. None to keep no pictures.

    Attributes:
        is_on: One is under way.
    """

    def __init__(self, models: Models, budget: Budget, most_kept: int = 0, report: Report | None = None) -> None:
        self.is_on = False
        self._models, self._budget = models, budget
        self._most_kept, self._report = most_kept, report
        self._running: dict[str, Comparison] = {}
        # Decided, and not yet in `_ended`.
        self._ending: dict[str, Comparison] = {}
        # The last of each model.
        self._ended: dict[str, Comparison] = {}
        self._starting: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Changes of the repository that go on if their callers are cancelled.
        self._changes: set[asyncio.Task[Any]] = set()

    def begin(self, model: Model, version: int | str, caller: str, identifier: str) -> tuple[Model, Compared | None]:
        """See Comparing.begin."""
        if (comparison := self._running.get(model.name)) is None:
            return model, None
        answering, part = comparison.begin(model, version, caller, identifier)
        # The new version may have been unloaded just now.
        return (answering, part) if answering is model or self._models.serves(answering) else (model, None)

    async def start(self, name: str, version: int, plan: Plan) -> Comparison:
        """Load a version beside the one that serves, and begin to compare them.

        Args:
            name: The model's name.
            version: The new version's number; it is loaded if it does not serve.
            plan: What to do; `keep` beyond what the settings allow is an error.

        Raises:
            AlreadyExists: The model is being compared.
            NotFound: No such model serves, or there is no such version.
            ModelRefused: The version was refused.
            InvalidInput: The plan is not possible.
            NotSupported: The answers of the versions cannot be compared.
        """
        if name in self._running or name in self._starting:
            raise AlreadyExists(f"model {name!r} is being compared: promote the version or roll it back first")
        base = self._models.get(name)
        if plan.rule is not None:
            check_rule(plan.rule, base, is_canary=plan.mode is Mode.CANARY)
        if version == base.version:
            raise InvalidInput("version", f"{version} serves already: give the version to be proven")
        control = self._control()
        self._starting.add(name)
        try:
            await control.add_beside(name, version)
            try:
                base, new = self._models.get(name), self._models.get(name, version)
                check_comparable(base, new)
                plan = replace(plan, keep=self._kept(new, plan))
            except ServerError:
                await self._to_its_end(control.take_back(name, version))
                raise
        finally:
            self._starting.discard(name)
        comparison = Comparison(base, new, plan, self._budget, lambda judgement: self._decided(name, judgement))
        self._running[name] = comparison
        self._ended.pop(name, None)
        self.is_on = True
        self._begin(self._watch(comparison))
        extra = {"model": name, "version": version, "serving": base.version, "mode": plan.mode.value}
        _log.info("a comparison begins", extra={**extra, "share": plan.share, "promote_if": str(plan.rule or "")})
        return comparison

    async def promote(self, name: str, reason: str = "by request") -> Comparison:
        """Let the new version answer calls without a version; the old one drains unless version_policy keeps it.

        It goes on if its caller is cancelled.

        Raises:
            NotFound: The model is not being compared, or one of the versions does not serve any more.
        """
        return await self._to_its_end(self._promote(name, reason))

    async def _promote(self, name: str, reason: str) -> Comparison:
        comparison = await self._take(name)
        try:
            await self._control().promote(name, comparison.new_version)
            await self._end(comparison, State.PROMOTED, reason)
        except NotFound as error:
            await self._lose(comparison, error.message)
            raise
        finally:
            self._ending.pop(name, None)
        return comparison

    async def roll_back(self, name: str, reason: str = "by request") -> Comparison:
        """Unload the new version; the old one serves on.

        It goes on if its caller is cancelled.

        Raises:
            NotFound: The model is not being compared, or one of the versions does not serve any more.
        """
        return await self._to_its_end(self._roll_back(name, reason))

    async def _roll_back(self, name: str, reason: str) -> Comparison:
        comparison = await self._take(name)
        try:
            await comparison.end(State.ROLLED_BACK, reason)
            await self._control().withdraw(name, comparison.new_version, f"rolled back: {reason}")
            await self._end(comparison, State.ROLLED_BACK, reason)
            if comparison.kept.found and self._report is not None:
                await asyncio.to_thread(self._report, comparison)
        finally:
            comparison.kept.clear()
            self._ending.pop(name, None)
        return comparison

    def status(self) -> list[Comparison]:
        """Return the comparisons under way and the last one of each other model, by name."""
        known = {**self._ended, **self._ending, **self._running}
        return [known[name] for name in sorted(known)]

    async def close(self) -> None:
        """End all, when the server stops; versions stay as they are."""
        for comparison in [*self._running.values()]:
            self._forget(comparison)
            await comparison.end(State.ENDED, "the server stops")
        for task in [*self._tasks]:
            task.cancel()

    def _decided(self, name: str, judgement: Judgement) -> None:
        act = self.promote if judgement.verdict is Verdict.PROMOTE else self.roll_back

        async def carry_out() -> None:
            try:
                await act(name, judgement.reason)
            except ServerError as error:
                _log.error("a verdict was not carried out", extra={"model": name, "error": error.message})

        self._begin(carry_out())

    async def _watch(self, comparison: Comparison) -> None:
        """End a comparison of which a version does not serve any more."""
        while self._running.get(comparison.name) is comparison:
            if reason := self._loss(comparison):
                self._forget(comparison)
                await self._lose(comparison, reason)
                return
            await asyncio.sleep(_LOOK_S)

    def _loss(self, comparison: Comparison) -> str:
        """Return why the versions cannot be compared any more; empty if they can."""
        base, new = comparison.models
        for model in (base, new):
            if not self._models.serves(model):
                return f"version {model.version} was unloaded or loaded again"
        is_default = self._models.is_default(base)
        return "" if is_default else f"version {base.version} does not answer calls without a version any more"

    async def _lose(self, comparison: Comparison, reason: str) -> None:
        """End a comparison without a verdict: the new version is not proven."""
        await comparison.end(State.ENDED, reason)
        unproven = f"its comparison ended without a verdict: {reason}"
        # The model may have been unloaded.
        with suppress(ServerError):
            await self._control().take_back(comparison.name, comparison.new_version, unproven)
        await self._end(comparison, State.ENDED, reason)

    def _kept(self, new: Model, plan: Plan) -> int:
        """Return how many pictures are kept. Raises InvalidInput if that is more than the settings allow."""
        most = self._most_kept if new.keep_disagreements is None else new.keep_disagreements
        most = 0 if self._report is None else most
        if plan.keep is not None and plan.keep > most:
            allowed = f"keep_disagreements of the server or the model, and comparison_reports, allow {most}"
            raise InvalidInput("keep", f"{plan.keep} pictures are not kept: {allowed}")
        return most if plan.keep is None else plan.keep

    async def _end(self, comparison: Comparison, state: State, reason: str) -> None:
        await comparison.end(state, reason)
        name, evidence = comparison.name, comparison.evidence
        self._ending.pop(name, None)
        self._ended.pop(name, None)
        self._ended[name] = comparison
        while len(self._ended) > _MOST_ENDED:
            del self._ended[next(iter(self._ended))]
        told = {"answers": evidence.n, "equal": evidence.agreeing, "errors": evidence.errors}
        extra = {"model": name, "version": comparison.new_version, "reason": reason, **told}
        level = logging.INFO if state is State.PROMOTED else logging.WARNING
        _log.log(level, "a comparison ended", extra={**extra, "result": state.value})

    async def _take(self, name: str) -> Comparison:
        """Remove a comparison from those under way, so that it is decided once."""
        if (comparison := self._running.get(name)) is None:
            raise NotFound(f"model {name[:64]!r} is not being compared")
        self._forget(comparison)
        if reason := self._loss(comparison):
            await self._lose(comparison, reason)
            raise NotFound(f"model {name!r} is not being compared any more: {reason}")
        return comparison

    def _forget(self, comparison: Comparison) -> None:
        self._running.pop(comparison.name, None)
        self._ending[comparison.name] = comparison
        self.is_on = bool(self._running)

    def _control(self) -> RepositoryControl:
        if (control := self._models.control) is None:
            raise Unavailable("the server is starting")
        return control

    async def _to_its_end(self, change: Coroutine[Any, Any, T]) -> T:
        """Return the result of a change of the repository, which goes on if the caller is cancelled."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
