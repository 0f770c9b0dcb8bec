"""A config.pbtxt of any content is taken, or refuses its model with a place: nothing else."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.config import Settings
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.model_config.settings import settings_of

from .....conftest import examples
from .test_configuration import DENSENET, RESNET
from .test_queue_policies import POLICY

NAMES = "input dims name reshape shape model_warmup inputs key value version_policy specific versions dynamic_batching"
MORE = "max_batch_size optimization TYPE_FP32 true nan -1 1 1e999 99999999999999999999 parameters instance_group kind"
WORDS = st.sampled_from([*NAMES.split(), *MORE.split(), *"{}[]<>:,;#\"'\n\\ -\0"])
CUT = st.integers(0, 700)


def _take(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "m"
    folder.mkdir(exist_ok=True)
    (folder / "config.pbtxt").write_bytes(text.encode())
    try:
        message = settings_of(folder, "m", Settings(repository=tmp_path)).model_dump_json()
    except ModelRefused as refused:
        message = refused.message
    assert message.startswith(("config.pbtxt", "{"))
    assert len(message) < 3000


@given(st.lists(WORDS, max_size=40))
@examples(200)
def test_any_words(tmp_path_factory, words: list[str]) -> None:
    _take(tmp_path_factory.getbasetemp(), " ".join(words))


@given(st.sampled_from([RESNET, DENSENET, POLICY]), CUT, CUT, st.lists(WORDS, max_size=3))
@examples(200)
def test_a_configuration_with_a_piece_replaced(
    tmp_path_factory, text: str, start: int, length: int, words: list[str]
) -> None:
    _take(tmp_path_factory.getbasetemp(), text[:start] + " ".join(words) + text[start + length % 40 :])
