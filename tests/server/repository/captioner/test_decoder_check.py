"""Every session of a captioner says the golden captions' words at every size, or the captioner is refused."""

from dataclasses import replace

import numpy as np
import pytest
from resonnx_server.captioning.slots import host_slots
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.captioner import entry as captioners
from resonnx_server.repository.captioner import state_placement
from resonnx_server.repository.captioner.decoder_check import DecoderCheck
from resonnx_server.runtime import device_state
from resonnx_server.runtime.model_files.golden_examples import Golden, judge_words
from resonnx_server.runtime.session import CPU, Session

from ...language import Language, spec
from ...onnx_classifier import version
from ...onnx_language import manifest, version_files

Tensors = dict[str, np.ndarray]
NAME = f"{CPU}/fp32"


def _lies(monkeypatch: pytest.MonkeyPatch, name: str, rows: int) -> None:
    """Let the graph that has an output of that name answer in the wrong order, in batches of so many rows."""
    run = Session.run

    def answers(session: Session, feeds: Tensors, *more: object) -> Tensors:
        outputs = run(session, feeds, *more)
        is_wrong = name in outputs and len(outputs[name]) == rows
        return {key: array[::-1] for key, array in outputs.items()} if is_wrong else outputs

    monkeypatch.setattr(Session, "run", answers)


def test_a_right_captioner_is_taken() -> None:
    assert callable(captioners.ENTRY.load(version(max_batch_size=16), *version_files()))


@pytest.mark.parametrize(
    ("file", "output", "rows"),
    [
        ("encoder.onnx", "feature_0", 2),
        ("encoder.onnx", "feature_0", 6),
        ("encoder.onnx", "feature_0", 8),
        ("decoder.onnx", "top_ids", 24),
        ("decoder.onnx", "top_ids", 64),
    ],
)
def test_a_size_with_wrong_answers_refuses_the_captioner(
    monkeypatch: pytest.MonkeyPatch, file: str, output: str, rows: int
) -> None:
    """The golden captions are four, and right."""
    _lies(monkeypatch, output, rows)
    with pytest.raises(ModelRefused) as refused:
        captioners.ENTRY.load(version(max_batch_size=8, threads=1, provider="cpu"), *version_files())
    answers = f"outputs of {file} on {NAME} (threads 1) for batches of {rows} disagree with the golden examples"
    assert refused.value.message.startswith(f"{NAME} + {NAME}: {answers}: max|delta|")
    assert "words differ" in refused.value.message


def test_a_session_that_was_opened_beside_the_judged_one_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lies(Session):
        def run(self, *asked: object) -> Tensors:
            return {name: array + 1 for name, array in super().run(*asked).items()}

    def opened_again(session: Session, model: bytes, threads: int, *, spinning: bool = False) -> Session:
        return Lies(model, session.candidate, threads, spinning=spinning, view=session.view)

    monkeypatch.setattr(Session, "opened_again", opened_again)
    with pytest.raises(ModelRefused, match=r"outputs of encoder.onnx on .* \(threads 1\) for batches of 1 disagree"):
        captioners.ENTRY.load(version(max_batch_size=8), *version_files())


@pytest.mark.parametrize("rows", [0, 24])
def test_captions_that_stay_on_a_device_are_judged_there(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """The CPU's memory counts as a device's; steps of 24 rows are wrong, or none."""
    run_bound = device_state.run_bound

    def answers(*asked: object) -> tuple[Tensors, object]:
        fetched, kept = run_bound(*asked)
        return {name: array[::-1] if len(array) == rows else array for name, array in fetched.items()}, kept

    monkeypatch.setattr(state_placement, "_APART", ("cpu",))
    monkeypatch.setattr(device_state, "run_bound", answers)
    if rows:
        with pytest.raises(ModelRefused, match=r"outputs of decoder.onnx on .* for batches of 24 disagree"):
            captioners.ENTRY.load(version(max_batch_size=8), *version_files())
    else:
        assert callable(captioners.ENTRY.load(version(max_batch_size=8), *version_files()))


def test_where_the_encoder_says_the_first_word_that_and_the_second_are_judged() -> None:
    """The language begins with its START token; here it is what the encoder says of every picture."""
    _, golden = version_files()
    assert golden.tokens is not None
    assert golden.log_probs is not None
    count, language = len(golden.images), Language()
    tokens = np.concatenate([np.full((count, 1), spec().start_id), golden.tokens], axis=1)
    log_probs = np.concatenate([np.full((count, 1), np.float32(-0.5)), golden.log_probs], axis=1)
    first_log_probs = np.full((count, 40), np.float32(-9))
    first_log_probs[:, spec().start_id] = -0.5
    language.manifest = manifest()  # type: ignore[attr-defined]
    language.manifest.captioner.ClearField("start_id")  # type: ignore[attr-defined]
    state, features, _ = language.encode(golden.images)

    def judged(golden: Golden, said: np.ndarray) -> tuple[bool, bool]:
        slots = host_slots(32, state, features)
        step = DecoderCheck(language, lambda *_: slots, golden, 1e-3)  # type: ignore[arg-type, var-annotated]
        encoding = step.of_encoding(count, (state, features, said))
        return encoding.passed, encoding.passed and step.of_slots(24).passed and len(slots) == 0

    right = replace(golden, tokens=tokens, log_probs=log_probs)
    assert judged(right, first_log_probs) == (True, True)
    assert judged(right, first_log_probs + 0.1) == (False, False)
    assert judged(replace(right, tokens=np.roll(tokens, 1, axis=0)), first_log_probs) == (False, False)
    one_word = replace(right, tokens=tokens[:, :1], log_probs=log_probs[:, :1])
    assert judged(one_word, first_log_probs) == (True, True), "there is no second word"


def test_a_word_is_judged_by_its_token_and_on_the_scale_of_all_words() -> None:
    golden = Golden(
        np.zeros((2, 1, 1, 3), np.uint8), None, np.array([[5, 6], [7, -1]]), np.float32([[-1, -4], [-2, 0]])
    )
    both = np.array([0, 1])

    def judged(position: int, ids: list[int], log_probs: list[float]) -> bool:
        return judge_words(golden, both, position, np.array(ids), np.float32(log_probs), 0.1).passed

    assert judged(0, [5, 7], [-1.39, -2.39])
    assert not judged(0, [5, 7], [-1.41, -2])
    assert not judged(0, [5, 6], [-1, -2])
    assert not judged(0, [5, 7], [-1, np.nan])
    assert judged(1, [6, 3], [-4, np.nan]), "the second caption has ended"
