"""Rows about throughput as a share of the floor, and about added latency."""

from pictures.photographs import decode_seconds
from rows.setting import CALLERS, Setting


def big_unary(setting: Setting) -> float:
    """Share of the floor: ResNet-50, UINT8 pixels, one call a picture."""
    return setting.peak("big").rate / setting.floor("big").rate


def big_stream(setting: Setting) -> float:
    """Share of the floor: the same on ModelStreamInfer."""
    return setting.peak("big", stream=True).rate / setting.floor("big").rate


def big_float(setting: Setting) -> float:
    """Share of the floor: the bare graph that takes FP32 tensors, 602 kB a request."""
    return setting.peak("big_float").rate / setting.floor("big_float").rate


def small_unary(setting: Setting) -> float:
    """Share of the floor: ResNet-18 at 32x32."""
    return setting.peak("small").rate / setting.floor("small").rate


def small_stream(setting: Setting) -> float:
    """Share of the floor: the same on ModelStreamInfer."""
    return setting.peak("small", stream=True).rate / setting.floor("small").rate


def small_added_ms(setting: Setting) -> float:
    """Ms that one caller waits beyond the runtime's own time for one picture."""
    alone = setting.generator.closed(setting.server.grpc, setting.names["small"], 1)
    assert alone.p50_ms is not None
    return alone.p50_ms - setting.alone_ms("small")


def jpeg(setting: Setting) -> float:
    """Share of the throughput that decoding and inference alone would reach."""
    manifest = setting.info("big").manifest
    assert manifest is not None
    bound = 1 / (1 / setting.floor("big").rate + decode_seconds(setting.pictures, manifest.input) / setting.cores)
    files = setting.pictures
    served = setting.generator.closed(setting.server.grpc, setting.names["big"], CALLERS["big"], files=files)
    return served.rate / bound


def thousand_clients(setting: Setting) -> float:
    """Share of the peak that a thousand callers get, each on a connection of its own."""
    name, server = setting.names["small"], setting.server.grpc
    return setting.generator.closed(server, name, 1000, apart=True).rate / setting.peak("small").rate
