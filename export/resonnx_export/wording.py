"""How numbers and names are written for people, in the summary and in the report."""

from resonnx_proto.v1 import manifest_pb2 as pb


def precision_name(precision: pb.Precision) -> str:
    """Return "fp32" and the like."""
    return pb.Precision.Name(precision).removeprefix("PRECISION_").lower()


def provider_name(speed: pb.ProviderSpeed) -> str:
    """Return a provider with its precision, as the server's logs name it: "CPUExecutionProvider/fp32"."""
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
