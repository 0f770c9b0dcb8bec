"""The versions of one model: which are loaded and drained, as a state machine over anything that may happen."""

from collections.abc import Mapping

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from resonnx_server.inference.repository_control import State
from resonnx_server.repository.life.generation import Generation, may_follow
from resonnx_server.repository.life.model_life import ModelLife
from resonnx_server.version_policy import VersionPolicy, canonical

from ....conftest import examples

_VERSIONS = st.integers(1, 4)
_POLICIES = st.sampled_from(["latest: 1", "latest: 2", "all", "specific: [1, 3]"])


def _policy(text: str) -> VersionPolicy:
    return VersionPolicy.parse(canonical(text))


class _Repository(RuleBasedStateMachine):
    """A model's folder, its loads and its drains, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.life = ModelLife("digits", falls_back=True)
        self.folder: dict[int, int] = {}
        self.policy, self.labels = _policy("latest: 1"), dict[str, int]()
        self.loading: list[Generation] = []
        self.serving: dict[int, Generation] = {}
        self.draining: list[Generation] = []
        self.refused: set[tuple[int, int]] = set()
        self.contents = 0

    def _act(self) -> None:
        """Do what the model's life asks for, as the repository's control does."""
        told = self.told
        self.told = self.life.labels
        for label, version in told.items():
            if version in self.serving and version in self.folder and label in self.labels:
                assert self.told[label] in self.serving, "a label that can be answered stays so"
        for generation in self.life.loads():
            key = (generation.version, generation.content)
            assert key not in self.refused, "what was refused is not tried again before it changes"
            assert all(other.version != generation.version for other in self.loading), "one load of a version at a time"
            assert self.folder[generation.version] == generation.content
            self.loading.append(generation)
        before = bool(self.serving)
        for generation in self.life.drains():
            assert self.serving.get(generation.version) is generation or generation in self.replaced
            self.draining.append(generation)
            if self.serving.get(generation.version) is generation:
                del self.serving[generation.version]
        assert self.serving or not before or not self.folder, "while there are versions, what serves serves on"

    replaced: tuple[Generation, ...] = ()
    told: Mapping[str, int] = {}

    @rule(version=_VERSIONS)
    def change(self, version: int) -> None:
        self.contents += 1
        self.folder[version] = self.contents
        self._see()

    @rule(version=_VERSIONS)
    def vanish(self, version: int) -> None:
        self.folder.pop(version, None)
        self._see()

    @rule(text=_POLICIES, labels=st.dictionaries(st.sampled_from(["stable", "canary"]), _VERSIONS))
    def configure(self, text: str, labels: dict[str, int]) -> None:
        self.policy, self.labels = _policy(text), labels
        self._see()

    @rule()
    def retry(self) -> None:
        self.refused.clear()
        self.life.retry()
        self._act()

    def _see(self) -> None:
        self.life.see(self.folder, self.policy, self.labels)
        self._act()

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), state=st.sampled_from([State.VERIFYING, State.LOADING, State.WARMING]))
    def reach(self, data: st.DataObject, state: State) -> None:
        data.draw(st.sampled_from(self.loading)).reach(state)

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), good=st.booleans())
    def end_load(self, data: st.DataObject, good: bool) -> None:
        generation = data.draw(st.sampled_from(self.loading))
        self.loading.remove(generation)
        if not good:
            self.refused.add((generation.version, generation.content))
            self.life.refused(generation, "it is bad")
        elif self.life.is_wanted(generation):
            if (old := self.serving.get(generation.version)) is not None:
                self.replaced = (old,)
            self.serving[generation.version] = generation
            self.life.loaded(generation)
        else:
            self.life.dropped(generation)
        self._act()

    @precondition(lambda self: self.serving)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.serving)))
        generation = self.serving.pop(version)
        self.refused.add((version, generation.content))
        self.life.refused(generation, "a run hung")
        self._act()

    @precondition(lambda self: self.draining)
    @rule(data=st.data())
    def end_drain(self, data: st.DataObject) -> None:
        generation = data.draw(st.sampled_from(self.draining))
        self.draining.remove(generation)
        self.life.drained(generation)
        assert generation.state is State.UNLOADED
        self._act()

    @invariant()
    def states_tell_what_serves(self) -> None:
        states = {each.version: each.state for each in self.life.states()}
        assert {version for version, state in states.items() if state is State.READY} == {*self.serving}
        for generation in self.loading:
            assert states[generation.version] in (generation.state, State.READY)

    @invariant()
    def at_rest_the_policy_is_fulfilled(self) -> None:
        if self.loading or self.draining or not self.folder:
            return
        good = {v for v, content in self.folder.items() if (v, content) not in self.refused or v in self.serving}
        chosen = self.policy.choose(good) | {*self.labels.values(), *self.told.values()} & good
        assert all(self.told[label] == version for label, version in self.labels.items() if version in self.serving)
        if chosen:
            assert {*self.serving} == chosen
        for version in chosen:
            content = self.folder[version]
            assert self.serving[version].content == content or (version, content) in self.refused

    @invariant()
    def nothing_serves_of_a_folder_that_is_gone(self) -> None:
        assert self.folder or not self.serving


TestRepository = _Repository.TestCase
TestRepository.settings = examples(60, stateful_step_count=40)


def test_states_are_left_forwards_only() -> None:
    order = [State.FOUND, State.VERIFYING, State.LOADING, State.WARMING, State.READY, State.DRAINING]
    for at, before in enumerate(order):
        after = {state for state in State if may_follow(before, state)}
        forwards = {*order[at + 1 : 5]} if at < 4 else {*order[at + 1 : at + 2]}
        assert after == forwards | {State.REFUSED} | ({State.UNLOADED} if before is State.DRAINING else set())
    for last in (State.UNLOADED, State.REFUSED):
        assert not any(may_follow(last, state) for state in State)


def test_a_model_without_fallback_serves_nothing_in_place_of_what_was_refused() -> None:
    life = ModelLife("digits", falls_back=False)
    life.see({1: "a", 2: "b"}, _policy("latest: 1"))
    (generation,) = life.loads()
    assert generation.version == 2
    life.refused(generation, "it is bad")
    assert life.loads() == []
    assert life.reasons == {2: "it is bad"}


def test_a_version_with_other_times_and_the_same_content_is_not_loaded_again() -> None:
    life = ModelLife("digits", falls_back=True)
    life.see({1: "a"}, _policy("latest: 1"))
    life.loaded(*life.loads())
    life.see({1: "touched"}, _policy("latest: 1"))
    (generation,) = life.loads()
    life.unchanged(generation)
    assert life.loads() == [] == life.drains()
    assert [each.state for each in life.states()] == [State.READY]


def test_a_changed_version_that_is_refused_is_told_beside_the_one_that_serves() -> None:
    life = ModelLife("digits", falls_back=True)
    life.see({1: "a"}, _policy("latest: 1"))
    life.loaded(*life.loads())
    life.see({1: "b"}, _policy("latest: 1"))
    (generation,) = life.loads()
    generation.reach(State.VERIFYING)
    assert [each.reason for each in life.states()] == ["its changed files are verifying"]
    life.refused(generation, "it is bad")
    assert [(each.state, each.reason) for each in life.states()] == [
        (State.READY, "its changed files were refused: it is bad")
    ]
    life.retry()
    assert [each.content for each in life.loads()] == ["b"]


def test_the_label_stable_moves_when_its_new_version_serves_and_stays_if_that_is_refused() -> None:
    life = ModelLife("digits", falls_back=True)
    life.see({1: "a", 2: "b", 3: "c"}, _policy("latest: 1"))
    life.loaded(*life.loads())
    life.see({1: "a", 2: "b", 3: "c"}, _policy("latest: 1"), {"stable": 1})
    assert life.labels == {}, "calls without a version are answered by 3 until 1 serves"
    life.loaded(*life.loads())
    assert life.labels == {"stable": 1}
    life.see({1: "a", 2: "b", 3: "c"}, _policy("latest: 1"), {"stable": 2, "next": 2})
    assert life.labels == {"stable": 1, "next": 2}
    assert life.drains() == []
    (generation,) = life.loads()
    life.refused(generation, "it is bad")
    assert life.drains() == []
    assert life.labels["stable"] == 1


def test_at_the_start_the_label_stable_waits_for_its_version() -> None:
    life = ModelLife("digits", falls_back=True)
    life.see({1: "a", 2: "b"}, _policy("all"), {"stable": 1})
    assert life.labels == {"stable": 1}
    two, one = life.loads()
    life.loaded(two)
    assert life.labels == {"stable": 1}, "calls without a version are not answered by 2, which is to be proven"
    life.refused(one, "it is bad")
    assert life.labels == {}


def test_files_that_were_refused_are_not_tried_again_when_the_version_that_served_stops() -> None:
    life = ModelLife("digits", falls_back=True)
    life.see({1: "a"}, _policy("latest: 1"))
    life.loaded(*(loaded := life.loads()))
    life.see({1: "b"}, _policy("latest: 1"))
    life.refused(*life.loads(), "it is bad")
    life.refused(*loaded, "a run hung")
    assert life.loads() == []
    assert life.reasons == {1: "it is bad"}
    life.see({1: "c"}, _policy("latest: 1"))
    assert [each.content for each in life.loads()] == ["c"]


def test_a_version_that_is_taken_back_drains_even_while_others_are_loaded() -> None:
    life = ModelLife("digits", falls_back=True)
    life.see({1: "a"}, _policy("latest: 1"))
    life.loaded(*life.loads())
    life.held = 1
    life.add(2, "b")
    life.beside = 2
    (added,) = life.loads()
    life.loaded(added)
    assert (life.labels, life.drains()) == ({"stable": 1}, [])
    life.add(1, "c")
    assert [generation.content for generation in life.loads()] == ["c"]
    life.held = life.beside = 0
    life.take_back(2)
    assert life.drains() == [added]
    assert life.loads() == []
    # One that the folder has shown since is the policy's.
    life.add(3, "d")
    life.see({1: "c", 3: "d"}, _policy("latest: 1"))
    life.take_back(3)
    assert [generation.version for generation in life.loads()] == [3]
