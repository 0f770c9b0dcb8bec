"""Options of caption decoding."""

from typing import Literal, TypedDict


class CaptionOptions(TypedDict, total=False):
    """Keyword arguments of `caption` and `stream_caption`; the default of each is the model's own setting.

    Attributes:
        max_tokens: Maximum length in tokens, including the end token.
        min_tokens: Minimum length in tokens, including the end token.
        beam_width: 1 (greedy search) to 10.
        num_captions: Number of captions, best first; at most `beam_width`.
        length_normalization: How scores of captions are normalised by length.
        temperature: Sampling temperature; 0 takes the most probable token.
        top_k: Sample from this many most probable tokens.
        top_p: Sample from the fewest most probable tokens whose probabilities sum to this, 0 to 1.
        seed: Seed of the sampling, 0 to 2**64-1.
        forbidden_words: Words that are never produced.
        prefix: The first words of the caption.
        attention: Whether to return each word's attention weights.
    """

    max_tokens: int
    min_tokens: int
    beam_width: int
    num_captions: int
    length_normalization: Literal["none", "length", "gnmt"]
    temperature: float
    top_k: int
    top_p: float
    seed: int
    forbidden_words: list[str]
    prefix: list[str]
    attention: bool
