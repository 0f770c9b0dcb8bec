"""Choices of sessions and providers are kept in the cache, and made again while they are doubtful."""

import json
from pathlib import Path

import pytest
from resonnx_server.errors import ModelRefused
from resonnx_server.repository import choose, classifiers
from resonnx_server.repository.choosing.report import RaceReport
from resonnx_server.repository.choosing.turns import ON_DEMAND, Effort, Raced
from resonnx_server.repository.latency_cache import CachedChoice, LatencyCache
from resonnx_server.repository.progress import Progress
from resonnx_server.repository.version import Version
from resonnx_server.runtime.session import CPU, Candidate, Session

from ...onnx_classifier import files, golden, version


class Starts:
    """Starts of a server with one model and a cache."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self._folder = folder
        self._settings = settings
        self.races: list[RaceReport] = []

    def load(self, effort: Effort | None = None) -> list[str]:
        """Load the model; returns what raced."""
        self.races = []
        cache = LatencyCache(self._folder, 2)
        loaded = version(cache=cache, max_batch_size=2, **{"provider": "cpu", **self._settings})  # type: ignore[arg-type]
        self.progress = Progress(on_race=self.races.append)
        fields = {**vars(loaded), "progress": self.progress, **({"effort": effort} if effort else {})}
        classifiers.ENTRY.load(Version(**fields), files(), golden(3))
        return [race.subject for race in self.races]


@pytest.fixture(autouse=True)
def sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing that is measured be doubtful."""
    monkeypatch.setattr(Raced, "is_doubtful", False)


def test_a_second_start_takes_the_choice_of_the_first(tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    assert starts.load() == ["throughput", "latency"]
    assert starts.load() == []
    assert Starts(tmp_path, max_instances=1).load() == ["latency"], "other candidates"


def test_a_doubtful_choice_is_made_again_three_times_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Raced, "is_doubtful", True)
    starts = Starts(tmp_path)
    for _ in range(2):
        assert starts.load() == ["throughput", "latency"]
        assert starts.progress.is_doubtful
    assert starts.load() == ["throughput", "latency"]
    (file,) = tmp_path.glob("choice-*.json")
    assert json.loads(file.read_text())["doubts"] == 3
    assert starts.load() == []


def test_a_choice_beyond_doubt_takes_the_place_of_a_doubtful_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Raced, "is_doubtful", True)
    starts = Starts(tmp_path)
    starts.load()
    monkeypatch.setattr(Raced, "is_doubtful", False)
    assert starts.load() == ["throughput", "latency"]
    assert starts.load() == []


def test_measurements_on_demand_ask_no_cache_but_fill_it(tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    starts.load()
    demanded = Effort(longest_s=1.0, most_turns=20, asks_cache=ON_DEMAND.asks_cache)
    assert starts.load(demanded) == ["throughput", "latency"]
    assert starts.load() == []


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"chosen": 5, "doubts": 0}', '{"chosen": [2, 1, 1], "doubts": 0}']
    + [f'{{"chosen": {chosen}, "doubts": 0}}' for chosen in ('[0, 1, 1, 2]', '["x", 1, 1, 2]', "[null, 1, 1, 2]")]
    + [f'{{"chosen": {chosen}, "doubts": 0}}' for chosen in ("[512, 1, 1, 2]", "[2, 1, 512, 2]", "[2, 1, 1, 512]")]
    + [f'{{"chosen": [1, 0, 1, 2], "doubts": {doubts}}}' for doubts in ("-1", '"x"', "null")],
)  # fmt: skip
def test_a_choice_that_cannot_be_read_is_made_anew(content: str, tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    starts.load()
    (file,) = tmp_path.glob("choice-*.json")
    file.write_text(content)
    assert starts.load() == ["throughput", "latency"]
    assert file.read_text() != content


def test_the_sessions_are_those_that_were_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = Starts(tmp_path)
    starts.load()
    (file,) = tmp_path.glob("choice-*.json")
    for kept, expected in (([2, True, 1, 2], {(2, True), (1, False)}), ([1, False, 1, 2], {(1, False)})):
        file.write_text(json.dumps({"chosen": kept, "doubts": 0}))
        used = set()
        with monkeypatch.context() as patch:

            def run(session: Session, *asked: object, used: set[tuple[int, bool]] = used) -> object:
                if len(asked[0]["image"]) == 2:  # type: ignore[index]
                    used.add((session.threads, session.spinning))
                return _RUN(session, *asked)

            patch.setattr(Session, "run", run)
            assert starts.load() == []
        # The first one judges the golden examples.
        assert expected <= used


_RUN = Session.run


def _two_providers(monkeypatch: pytest.MonkeyPatch, opened: list[str], broken: set[str]) -> None:
    """Let there be a slow provider beside the CPU's."""
    cpu = Candidate(CPU, 1)

    class Slow(Session):
        def run(self, *asked: object) -> dict[str, object]:
            for _ in range(40):
                super().run(*asked)
            return super().run(*asked)

    def session(content: bytes, candidate: Candidate, threads: int, **more: object) -> Session:
        opened.append(candidate.provider)
        if candidate.provider in broken:
            raise ModelRefused("it has no memory")
        made = (Slow if candidate.provider == "Other" else Session)(content, cpu, threads, **more)  # type: ignore[arg-type]
        made.candidate = candidate
        return made

    monkeypatch.setattr(choose, "candidates", lambda *_: [Candidate("Other", cpu.precision), cpu])
    monkeypatch.setattr(choose, "Session", session)


def test_only_the_provider_that_was_fastest_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    broken: set[str] = set()
    _two_providers(monkeypatch, opened, broken)
    starts = Starts(tmp_path)
    assert starts.load() == ["provider", "throughput", "latency"]
    assert starts.races[0].chosen == f"{CPU}/fp32"
    assert opened == ["Other", CPU]
    opened.clear()
    assert starts.load() == []
    assert opened == [CPU]
    opened.clear()
    broken.add(CPU)
    with pytest.raises(ModelRefused, match=r"it has no memory|did not accept Other"):
        starts.load()
    assert opened == [CPU, "Other", CPU], "it does not load any more: all are tried"


def test_a_provider_that_failed_may_race_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    broken = {"Other"}
    _two_providers(monkeypatch, opened, broken)
    starts = Starts(tmp_path)
    starts.load()
    broken.clear()
    assert starts.load() == ["provider"]


def test_no_choice_is_kept_without_a_cache() -> None:
    cache = LatencyCache(None, 2)
    cache.keep_choice("a", CachedChoice((1,)))
    assert cache.choice("a") is None
