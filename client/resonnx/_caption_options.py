"""What a caller may say about how a caption is decoded."""

from typing import Literal, TypedDict


class CaptionOptions(TypedDict, total=False):
    """Keyword arguments of `caption` and `stream_caption`; what is left out is the model's own choice.

    Attributes:
        max_tokens: Where to stop, the end token included.
        min_tokens: The end token may not come before it is this one, counted from 1.
        beam_width: Captions searched side by side, 1 (greedy) to 10.
        num_captions: Captions wanted, best first; at most `beam_width`.
        length_normalization: How the captions' scores allow for their length.
        temperature: Above 0, tokens are drawn at random from probabilities ** (1 / temperature).
        top_k: Draw among so many best tokens.
        top_p: Draw among the fewest best tokens whose probabilities sum up to it.
        seed: The same seed draws the same words; 0 to 2**64-1.
        forbidden_words: Words that may not come.
        prefix: Words that the caption begins with.
        attention: Whether to tell, word by word, where the model looked.
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
