"""Beam search against the sources' own loops, written out here as they stand there; sampling and constraints."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec
from resonnx_server.captioning.request import start_search
from resonnx_server.runtime.decoding.beams import length_divisor
from resonnx_server.runtime.decoding.sampling import uniform
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.decoding.step_output import StepOutput

from ...language import END, START, STATES, Language, alone, ids, picture, spec

LANGUAGE = Language()
SHRINK, REPLACE = CaptionerSpec.FINISHED_BEAMS_SHRINK, CaptionerSpec.FINISHED_BEAMS_REPLACE
NONE, LENGTH, GNMT = (
    CaptionerSpec.LENGTH_NORMALIZATION_NONE,
    CaptionerSpec.LENGTH_NORMALIZATION_LENGTH,
    CaptionerSpec.LENGTH_NORMALIZATION_GNMT,
)
numbers, widths = st.integers(0, 65_535), st.integers(1, 10)


def _log_probs(number: int, path: list[int]) -> np.ndarray:
    """The language's float32 [V] after START and `path`, from its definition."""
    past = number * 7
    for token in [START, *path]:
        past = (past * 131 + token * 17 + number * 3 + 1) % STATES
    return LANGUAGE.table[past].astype(np.float64)


def _sgrvinod(number: int, k: int, max_steps: int) -> list[tuple[float, list[int]]]:
    """caption.py: of k live beams the best k continuations; those that end leave, and k falls. Ended, best first."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    complete = []
    for _ in range(max_steps):
        scores = np.concatenate([score + _log_probs(number, path) for score, path in live])
        best = np.argsort(-scores, kind="stable")[:k]
        grown = [(scores[i], [*live[i // 40][1], int(i % 40)]) for i in best]
        complete += [beam for beam in grown if beam[1][-1] == END]
        live = [beam for beam in grown if beam[1][-1] != END]
        k = len(live)
        if k == 0:
            break
    return sorted(complete, key=lambda beam: -beam[0])


def _ruotianluo(
    number: int, width: int, max_steps: int, rule: int, suppressed: Sequence[int] = ()
) -> list[tuple[float, list[int]]]:
    """CaptionModel.beam_search: ended beams go on at -1000, all end at the last step. Done beams, best first."""
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    done = []
    for step in range(max_steps):
        log_probs = np.array([_log_probs(number, path) for _, path in beams])
        log_probs[:, list(suppressed)] -= 1000
        scores = np.concatenate([score + row for (score, _), row in zip(beams, log_probs, strict=True)])
        best = np.argsort(-scores, kind="stable")[:width]
        beams = [(scores[i], [*beams[i // 40][1], int(i % 40)]) for i in best]
        for i, (score, path) in enumerate(beams):
            if path[-1] == END or step == max_steps - 1:
                done.append((score / length_divisor(rule, len(path)), path))
                beams[i] = (score - 1000, path)
    return sorted(done, key=lambda beam: -beam[0])[:width]


def _search(number: int, of: CaptionerSpec, **options: object) -> list[list[int]]:
    return ids(alone(LANGUAGE, picture(number), of, DecodeOptions(**{"max_tokens": 24, **options})))


@given(numbers, widths)
def test_shrinking_beams_are_sgrvinods(number: int, width: int) -> None:
    expected = _sgrvinod(number, width, 24)
    found = _search(number, spec(finished_beams=SHRINK), beam_width=width, captions=width)
    ended = [path for path in found if path[-1] == END]
    assert ended == [path for _, path in expected]
    assert found[: len(ended)] == ended, "what did not end comes last"
    if expected:
        assert _search(number, spec(finished_beams=SHRINK), beam_width=width) == [expected[0][1]], "stopping early"


@given(numbers, widths, st.sampled_from([NONE, LENGTH, GNMT]), st.integers(1, 24))
def test_replaced_beams_are_ruotianluos(number: int, width: int, rule: int, max_tokens: int) -> None:
    expected = [path for _, path in _ruotianluo(number, width, max_tokens, rule)]
    options = {"beam_width": width, "length_normalization": rule, "max_tokens": max_tokens}
    of = spec(finished_beams=REPLACE)
    assert _search(number, of, captions=width, **options) == expected
    assert _search(number, of, captions=1, **options) == expected[:1], "stopping early"


@given(numbers, widths.filter(lambda width: width > 1), st.sets(st.integers(2, 39), min_size=1, max_size=9))
def test_what_no_beam_may_take_greedy_captions_may(number: int, width: int, suppressed: set[int]) -> None:
    expected = [path for _, path in _ruotianluo(number, width, 24, NONE, [*suppressed])]
    of = spec(finished_beams=REPLACE, beam_forbidden_ids=suppressed)
    assert _search(number, of, beam_width=width, captions=width) == expected
    # Beside what a request forbids.
    other = next(token for token in range(2, 40) if token not in suppressed)
    both = _ruotianluo(number, width, 24, NONE, [*suppressed, other])
    assert _search(number, of, beam_width=width, forbidden=frozenset([other])) == [both[0][1]]
    for options in ({}, {"temperature": 1.0, "seed": 5}):
        assert _search(number, of, **options) == _search(number, spec(), **options)


@given(numbers)
def test_width_one_is_greedy_which_is_yunjeys(number: int) -> None:
    path: list[int] = []
    while len(path) < 24 and path[-1:] != [END]:
        path.append(int(_log_probs(number, path).argmax()))
    assert _search(number, spec()) == [path]


def test_normalisations_rank_by_length() -> None:
    assert length_divisor(NONE, 7) == 1
    assert length_divisor(LENGTH, 7) == 7
    assert length_divisor(GNMT, 1) == 1
    assert length_divisor(GNMT, 7) == pytest.approx(2**0.65)


@given(numbers, widths, st.integers(0, 12), st.integers(0, 12), st.sets(st.integers(2, 39), max_size=30))
def test_constraints_hold(number: int, width: int, least: int, more: int, forbidden: set[int]) -> None:
    limit = max(least + more, 2)
    options = {"min_tokens": least, "max_tokens": limit, "forbidden": frozenset(forbidden)}
    for path in _search(number, spec(), beam_width=width, captions=width, **options):
        assert max(least, 1) <= len(path) <= limit
        assert path.count(END) <= 1
        assert not forbidden & set(path)


@pytest.mark.parametrize("options", [{}, {"beam_width": 4}, {"temperature": 1.0, "seed": 3}])
def test_a_prefix_is_forced_and_its_log_probabilities_count(options: dict[str, object]) -> None:
    search = alone(LANGUAGE, picture(5), spec(), DecodeOptions(max_tokens=24, prefix=(30, 31, 32), **options))
    sequence, _ = search.ranked()[0]
    assert [token.id for token in sequence.tokens][:3] == [30, 31, 32]
    for i, token in enumerate(sequence.tokens):
        path = [before.id for before in sequence.tokens[:i]]
        assert token.log_prob == pytest.approx(_log_probs(5, path)[token.id])


@given(numbers, widths)
def test_stable_words_are_the_best_captions_words_in_order(number: int, width: int) -> None:
    for rule in (SHRINK, REPLACE):
        of = spec(finished_beams=rule)
        search = start_search(of, DecodeOptions(max_tokens=24, beam_width=width))
        emitted, path_states, steps = [], [[]], 0
        while not search.finished:
            rows = np.array([_log_probs(number, path) for path in path_states], np.float32)
            sources = search.advance(StepOutput.of_log_probs(rows), range(len(rows)))
            path_states = [[*path_states[s], t] for s, t in zip(sources, search.tokens, strict=True)]
            emitted += search.stable_words()
            steps += 1
        sequence, _ = search.ranked()[0]
        assert [token.id for token in emitted] == [token.id for token in sequence.shown()]


def test_sampling_is_the_seeds_alone() -> None:
    first = [_search(9, spec(), temperature=0.8, seed=seed) for seed in range(40)]
    assert first == [_search(9, spec(), temperature=0.8, seed=seed) for seed in range(40)]
    assert len({tuple(path) for (path,) in first}) > 30
    assert uniform(1, 0) != uniform(1, 1) != uniform(2, 0)
    assert 0 <= uniform(2**64 - 1, 1000) < 1


@pytest.mark.parametrize(
    ("options", "kept"), [({}, 40), ({"top_k": 3}, 3), ({"top_k": 20}, 20), ({"top_p": 0.5}, None)]
)
def test_sampling_draws_in_proportion(options: dict[str, float], kept: int | None) -> None:
    log_probs = _log_probs(4, [])
    sharp = np.exp(log_probs / 0.7)
    order = np.argsort(-sharp)
    if kept is None:
        kept = int(np.searchsorted(np.cumsum(sharp[order]) / sharp.sum(), 0.5)) + 1
    sharp[order[kept:]] = 0
    expected = sharp / sharp.sum()
    draws = 1500
    counts = Counter(
        _search(4, spec(), max_tokens=1, temperature=0.7, seed=seed, **options)[0][0] for seed in range(draws)
    )
    for token, share in enumerate(expected):
        assert counts[token] / draws == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / draws))


@given(st.integers(0, 2**32), st.integers(1, 60), st.sampled_from([0, 0, 1, 30]))
def test_all_log_probabilities_are_ranked_as_by_a_stable_sort(seed: int, words: int, without_number: int) -> None:
    rng = np.random.default_rng(seed)
    # Few different values, so that many are equal.
    log_probs = -rng.integers(1, rng.integers(2, 40), (3, words)).astype(np.float32)
    log_probs[1, rng.integers(0, words, without_number)] = np.nan
    log_probs[2, rng.integers(0, words, without_number)] = -np.inf
    output = StepOutput.of_log_probs(log_probs)
    for row in range(3):
        order = np.argsort(-log_probs[row], kind="stable").tolist()
        assert output.best_ids[row] == order[0]
        forbidden = set(order[1:-1:2])
        for count in (1, 3, 10):
            wanted = [token for token in order if token not in forbidden][:count]
            assert [token for token, _ in output.best(row, count, forbidden)] == wanted


def test_only_those_who_need_them_ask_for_all_log_probabilities() -> None:
    def needs(**options: object) -> bool:
        return start_search(spec(), DecodeOptions(**{"max_tokens": 24, **options})).needs_log_probs

    assert not needs()
    assert not needs(beam_width=10)
    assert not needs(beam_width=10, min_tokens=5)
    assert not needs(temperature=1.0, top_k=5)
    assert needs(temperature=1.0)
    assert needs(temperature=1.0, top_k=17)
    assert needs(prefix=(5,))
    assert needs(forbidden=frozenset(range(2, 20)))
