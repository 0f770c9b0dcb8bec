"""The fields of a message in protobuf's text format, with their lines."""

import random
from collections.abc import Iterator

import pytest
from google.protobuf import text_format
from google.protobuf.message import Message
from resonnx_proto.inference import model_config_pb2 as pb
from resonnx_server.repository.model_config.triton.text_fields import Field, TextFields, without

TEXT = """\
name: "a { b"  # comment: { 1
input [
  { name: "x" dims: [1, -1, 3]
    reshape { shape: [ ] } },
  { name: 'y' data_type: TYPE_FP32 dims: -1 dims: 3 }
]
output < name: 'z' "z"; >
instance_group { count: 1, gpus: 0
  kind: KIND_GPU }
dynamic_batching { }
parameters: { key: "k" value: { string_value:"\\"}" } }
model_warmup [{ name: "w"
  inputs { key: "x" value: { zero_data: true } } }]
"""
EXPECTED = [
    ("name", 1),
    ("input", 3),
    ("input.name", 3),
    ("input.dims", 3),
    ("input.reshape", 4),
    ("input", 5),
    ("input.name", 5),
    ("input.data_type", 5),
    ("input.dims", 5),
    ("input.dims", 5),
    ("output", 7),
    ("output.name", 7),
    ("instance_group", 8),
    ("instance_group.count", 8),
    ("instance_group.gpus", 8),
    ("instance_group.kind", 9),
    ("dynamic_batching", 10),
    ("parameters", 11),
    ("parameters.key", 11),
    ("parameters.value", 11),
    ("parameters.value.string_value", 11),
    ("model_warmup", 12),
    ("model_warmup.name", 12),
    ("model_warmup.inputs", 13),
    ("model_warmup.inputs.key", 13),
    ("model_warmup.inputs.value", 13),
    ("model_warmup.inputs.value.zero_data", 13),
]


def test_fields_are_found_with_their_lines_in_all_forms() -> None:
    text_format.Parse(TEXT, pb.ModelConfig())
    assert [(".".join(each.path), each.line) for each in TextFields(TEXT).fields] == EXPECTED


def test_the_line_of_an_element_is_found_by_its_number() -> None:
    lines = TextFields(TEXT)
    assert [lines.line("input", number=number) for number in (0, 1, 7)] == [3, 5, 5]
    assert lines.line("output", "dims") == 0


@pytest.mark.parametrize("one_line", [False, True])
def test_what_protobuf_prints_has_the_fields_of_the_message(one_line: bool) -> None:
    """Of any message: names nest as in it, whatever its strings hold."""
    draw = random.Random(7)
    for _ in range(30):
        name = "".join(draw.choice("ab\"'#{}[]<>:,;\\\n é") for _ in range(12))
        message = pb.ModelConfig(name=name, default_model_filename=name)
        for _ in range(draw.randrange(3)):
            message.input.add(name=name, dims=[draw.randrange(-1, 9) for _ in range(draw.randrange(4))])
            message.output.add().reshape.SetInParent()
        text = text_format.MessageToString(message, as_one_line=one_line)
        assert [each.path for each in TextFields(text).fields] == [*_names(message)]


def _names(message: Message, around: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Names of a message's fields, in the order of their numbers, as they are printed."""
    for field, value in message.ListFields():
        for element in [value] if isinstance(value, str | int | Message) else value:
            yield (*around, field.name)
            if isinstance(element, Message):
                yield from _names(element, (*around, field.name))


def test_fields_after_a_message_are_not_its_own() -> None:
    assert TextFields("a { b: 1 } c: 2").fields == [Field(("a",), 1), Field(("a", "b"), 1), Field(("c",), 1)]


def test_fields_are_taken_out_whole_and_the_lines_of_others_stay() -> None:
    text = 'a: [ 1,\n 2 ] b [ { c: 1 }, # ]\n { c: 2 } ] d { b: "}" } e < > f: 3'
    spans = [span for span in TextFields(text).spans if span.path in (("a",), ("b",), ("e",))]
    left = without(text, spans)
    assert left.split() == ["d", "{", "b:", '"}"', "}", "f:", "3"]
    assert [len(line) for line in left.split("\n")] == [len(line) for line in text.split("\n")]
    assert [(each.path, each.line) for each in TextFields(left).fields] == [(("d",), 3), (("d", "b"), 3), (("f",), 3)]


@pytest.mark.parametrize("text", ["}", "a { } }", "a: ", "a {", "] a: 1", 'a: "', "[", ": 1", "a: [ { b: 1"])
def test_a_text_that_is_not_valid_has_some_fields(text: str) -> None:
    assert len(TextFields(text).fields) <= 2
