"""The special tokens of a vocabulary are found by their names, or named by options."""

import pytest
from resonnx_export.errors import BadInput
from resonnx_export.special_tokens import SpecialTokens


@pytest.mark.parametrize(
    ("start", "end", "pad", "unknown"),
    [
        ("<start>", "<end>", "<pad>", "<unk>"),
        ("<SOS>", "<EOS>", "<PAD>", "<UNK>"),
        ("<bos>", "<eos>", "<padding>", "<unknown>"),
        ("startseq", "endseq", "xxpad", "unk"),
        ("startofseq", "endofseq", "<NULL>", "UNK"),
        ("<s>", "</s>", "[PAD]", "[UNK]"),
        ("[CLS]", "[SEP]", "__pad__", "<oov>"),
        ("<start_token>", "<end_token>", "<pad_token>", "<unk_token>"),
        ("<|startoftext|>", "<|endoftext|>", "_pad_", "xxunk"),
    ],
)
def test_names_of_every_source(start: str, end: str, pad: str, unknown: str) -> None:
    words = ("a", "start", "end", pad, "s", "paddle", start, "(s)", end, unknown, "ending")
    tokens = SpecialTokens()
    found = (tokens.start(words), tokens.end(words), tokens.pad(words), tokens.unknown(words))
    assert found == (6, 8, 3, 9)


def test_options_name_others() -> None:
    words = ("begin", "finish", "cat", "<start>", "fill", "rare")
    tokens = SpecialTokens("begin", "finish", "fill", "rare")
    assert (tokens.start(words), tokens.end(words), tokens.pad(words), tokens.unknown(words)) == (0, 1, 4, 5)
    plain = SpecialTokens()
    assert (plain.start(words), plain.pad(words), plain.unknown(words)) == (3, None, None)


def test_the_commonest_name_is_preferred() -> None:
    assert SpecialTokens().start(("<s>", "<start>")) == 1


def test_what_is_missing_or_ambiguous_names_the_option() -> None:
    with pytest.raises(BadInput, match=r"lacks a token as <end>; name it with --end-token WORD \(the words are a, b\)"):
        SpecialTokens().end(("a", "b"))
    with pytest.raises(BadInput, match=r"a0, a1, a2, a3, a4, a5, \.\.\., a98, a99"):
        SpecialTokens().start([f"a{i}" for i in range(100)])
    with pytest.raises(BadInput, match=r"has <s> and \[CLS\], which may each be <start>; name one with --start-token"):
        SpecialTokens().start(("<s>", "[CLS]"))
    with pytest.raises(BadInput, match="--pad-token 'x' is not in the vocabulary"):
        SpecialTokens(pad_token="x").pad(("a",))


def test_long_words_are_no_tokens() -> None:
    assert SpecialTokens().pad((f"{'_' * 5000}a", "<pad>")) == 1
    assert SpecialTokens().pad((f"{'_' * 5000}a", "b")) is None
