"""The text forms of numbers and names in the summary and in the report."""

from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb

_SHOWN_NAMES: Final = 3
_LONGEST_NAME: Final = 60
# In bits.
_LONGEST_INTEGER: Final = 1024


def precision_name(precision: pb.Precision) -> str:
    """Return "fp32" and the like."""
    return pb.Precision.Name(precision).removeprefix("PRECISION_").lower()


def provider_name(speed: pb.ProviderSpeed) -> str:
    """Return a provider with its precision as in the server's logs: "CPUExecutionProvider/fp32"."""
    return f"{speed.provider}/{precision_name(speed.precision)}"


def size(count: int) -> str:
    """Return a number of bytes in kB or MB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def scientific(value: float) -> str:
    """Return two digits and the order of magnitude."""
    if value == 0:
        return "0"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def milliseconds(value: float) -> str:
    """Return three digits of a time."""
    return f"{value:,.0f} ms" if value >= 1000 else f"{value:.3g} ms"


def printable(text: str) -> str:
    """Return a line that no terminal takes for commands: texts may quote names from files, which may hold anything."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def is_text(value: str) -> bool:
    """Return whether a string can be written as UTF-8: pickles and JSON may hold halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_printable(value: object) -> bool:
    """Return whether a text is one, and an integer short enough for Python to print."""
    if isinstance(value, str):
        return is_text(value)
    return not isinstance(value, int) or value.bit_length() <= _LONGEST_INTEGER


def names(title: str, every: list[str]) -> str:
    """Return the number of names, the first few and the last."""
    short = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…" for name in every]
    if len(short) > 2 * _SHOWN_NAMES:
        short = [*short[:_SHOWN_NAMES], "…", short[-1]]
    return f"{len(every):,} {title}: {', '.join(short)}"
