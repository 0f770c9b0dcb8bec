"""Pickles and archives made to harm, as bytes."""

import io
import struct
import zipfile
from collections.abc import Iterator

import torch

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
PROTOCOL = b"\x80\x02M\xe9\x03."
SYSTEM = b"\x80\x02}q\x00."


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def call(path: str, *arguments: bytes) -> bytes:
    """GLOBAL, arguments, REDUCE."""
    module, _, name = path.rpartition(".")
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def number(value: int) -> bytes:
    return b"I%d\n" % value


def archive(pickle: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """A zip file as torch.save writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("archive/data.pkl", pickle)
        made.writestr("archive/byteorder", "little")
        for key, content in (storages or {}).items():
            made.writestr(f"archive/data/{key}", content)
        made.writestr("archive/version", "3\n")
    return buffer.getvalue()


def legacy(pickle: bytes) -> bytes:
    """A file as torch.save wrote it before it wrote zip files."""
    return MAGIC + PROTOCOL + SYSTEM + pickle + b"\x80\x02]q\x00."


def state_dict(value: bytes) -> bytes:
    """{"conv1.weight": value}."""
    return b"\x80\x02}" + text("conv1.weight") + value + b"s."


def tensor(
    numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], kind: str = "FloatStorage"
) -> bytes:
    """A tensor of storage 0."""
    pid = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text("0") + text("cpu") + number(numel) + b"tQ"
    sizes = b"(" + b"".join(map(number, size)) + b"t"
    strides = b"(" + b"".join(map(number, stride)) + b"t"
    return call("torch._utils._rebuild_tensor_v2", pid, number(offset), sizes, strides, b"\x89", b"N")


def commands(marker: str) -> dict[str, bytes]:
    """Pickles that run a command or code in an unpickler that does as it is told."""
    shell, code = f"touch {marker}", f"open({marker!r}, 'w')"
    system = call("os.system", text(shell))
    module = call("importlib.import_module", text("os"))
    return {
        "system": b"\x80\x02" + system + b".",
        "posix": b"\x80\x02" + call("posix.system", text(shell)) + b".",
        "protocol 0": f"cos\nsystem\n(S'{shell}'\ntR.".encode(),
        "eval": b"\x80\x02" + call("builtins.eval", text(code)) + b".",
        "exec of Python 2": b"\x80\x02" + call("__builtin__.eval", text(code)) + b".",
        "inst": f"(S'{shell}'\nios\nsystem\n.".encode(),
        "obj": b"(cos\nsystem\n" + text(shell) + b"o.",
        "newobj": b"\x80\x02cos\nsystem\n" + text(shell) + b"\x85\x81.",
        "newobj_ex": b"\x80\x04cos\nsystem\n" + text(shell) + b"\x85}\x92.",
        "stack_global": b"\x80\x04" + text("os") + text("system") + b"\x93" + text(shell) + b"\x85R.",
        "nested": b"\x80\x02" + call("builtins.getattr", module, text("system")) + text(shell) + b"\x85R.",
        "a command as an argument": b"\x80\x02" + call("collections.OrderedDict", system) + b".",
        "in a state_dict": state_dict(system),
        "as a key": b"\x80\x02}" + system + b"I1\ns.",
        "in a tensor": state_dict(call("torch._utils._rebuild_tensor_v2", system, *[b"I0\n"] * 5)),
        "a tensor of another type": state_dict(
            call("torch._tensor._rebuild_from_type_v2", b"cos\nsystem\n", b"N", text(shell) + b"\x85", b"N")
        ),
        "setstate": b"\x80\x02cos\nsystem\n)\x81" + text(shell) + b"b.",
        "attributes by build": b"\x80\x02"
        + call("collections.OrderedDict")
        + b"N}"
        + text("__class__")
        + system
        + b"s\x86b.",
        "build on a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}"
        + text("__code__")
        + system
        + b"s\x86b.",
        "persistent id": b"\x80\x02" + system + b"Q.",
        "persistent id as text": f"Pos.system {shell}\n.".encode(),
        "extension": b"\x82\x01" + text(shell) + b"\x85R.",
        "load": b"\x80\x02" + call("torch.load", text(marker)) + b".",
        "inner file": b"\x80\x02" + call("torch.storage._load_from_bytes", system) + b".",
        "partial": b"\x80\x02" + call("functools.partial", b"cos\nsystem\n", text(shell)) + b")R.",
        "run": b"\x80\x02" + call("runpy._run_code", text(code), b"}") + b".",
        "numpy": b"\x80\x02"
        + call("numpy.core.multiarray._reconstruct", b"cos\nsystem\n", text(shell), b"I0\n")
        + b".",
        "reconstructor": b"\x80\x02" + call("copy_reg._reconstructor", b"cos\nsystem\n", b"N", text(shell)) + b".",
        "breakpoint": b"\x80\x02" + call("builtins.breakpoint") + b".",
        "exit": b"\x80\x02" + call("os._exit", number(77)) + b".",
    }


def resources() -> dict[str, bytes]:
    """Pickles that take memory, time or stack in an unpickler that believes them."""
    linear = call("torch.nn.modules.linear.Linear")
    deep_module = b"\x80\x02" + linear + b"}" + text("_modules") + b"}sb"
    for _ in range(60):
        deep_module += (
            b"q\x01" + linear + b"}" + text("_modules") + b"}(" + text("a") + b"h\x01" + text("b") + b"h\x01usb"
        )
    itself = b"\x80\x02" + linear + b"q\x01}" + text("_modules") + b"}" + text("a") + b"h\x01ssb."
    copies = (
        b"\x80\x02]("
        + b"(I1\nI2\nl" * 1000
        + b"eq\x010"
        + b"]("
        + call("collections.OrderedDict", b"h\x01") * 5000
        + b"e."
    )
    return {
        "bytearray": b"\x80\x02" + call("builtins.bytearray", b"\x8a\x05\x00\x00\x00\x00\x02") + b".",
        "a storage": b"\x80\x02" + call("torch.FloatStorage", number(1 << 33)) + b".",
        "a tensor by its size": b"\x80\x02" + call("torch.Tensor", number(1 << 33)) + b".",
        "a long string": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"abc.",
        "long bytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b"abc.",
        "a long frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"}.",
        "a long number": b"\x80\x02\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"\x01.",
        "digits": b"I" + b"9" * 100_000 + b"\n.",
        "a negative length": b"\x80\x02T" + struct.pack("<i", -5) + b"abc.",
        "a far memo": b"\x80\x02}r" + struct.pack("<I", 0xFFFFFFF0) + b".",
        "sets": b"\x80\x04(" + b"\x8f" * 300_000 + b"l.",
        "deep lists": b"]" * 500_000 + b"a" * 499_999 + b".",
        "a deep tuple as a key": b"}" + b")" + b"\x85" * 500_000 + b"I1\ns.",
        "a list as a key": b"}]I1\ns.",
        "the same list copied": copies,
        "modules that share": deep_module + b".",
        "a module in itself": itself,
        "not one object": b"\x80\x02}}.",
        "an open mark": b"\x80\x02(}.",
        "nothing": b".",
        "no end": b"\x80\x02}",
        "pop": b"\x80\x02000.",
        "a control in a name": b"\x80\x02" + call("os.\x1b[31m\rname") + b".",
        "a long name": b"\x80\x02" + call("os." + "a" * 100_000) + b".",
    }


def tensors() -> dict[str, bytes]:
    """State_dicts whose tensors do not lie in their storage, which has 16 floats."""
    return {
        "beyond": state_dict(tensor(16, 0, (17,), (1,))),
        "offset": state_dict(tensor(16, 10, (8,), (1,))),
        "stride": state_dict(tensor(16, 0, (4,), (6,))),
        "negative offset": state_dict(tensor(16, -4, (4,), (1,))),
        "negative size": state_dict(tensor(16, 0, (-4,), (1,))),
        "negative stride": state_dict(tensor(16, 15, (4,), (-1,))),
        "huge": state_dict(tensor(16, 0, (1 << 62, 4), (1, 1))),
        "repeated": state_dict(tensor(16, 0, (1 << 20, 1 << 20), (0, 0))),
        "sizes and strides": state_dict(tensor(16, 0, (4, 4), (4,))),
        "dimensions": state_dict(tensor(16, 0, (1,) * 70, (1,) * 70)),
        "longer than its storage": state_dict(tensor(17, 0, (4,), (1,))),
        "a negative storage": state_dict(tensor(-1, 0, (4,), (1,))),
        "another kind": state_dict(tensor(4, 0, (4,), (1,), "QInt8Storage")),
        "no kind": state_dict(tensor(4, 0, (4,), (1,), "system")),
    }


def archives() -> dict[str, bytes]:
    """Zip files that unpack to more than they are, or lie about themselves."""
    return {
        "deflated zeros": _zip({"a/data.pkl": b"}.", "a/data/0": bytes(128 << 20)}, zipfile.ZIP_DEFLATED),
        "many deflated": _zip(
            {"a/data.pkl": b"}."} | {f"a/data/{i}": bytes(16 << 20) for i in range(8)}, zipfile.ZIP_DEFLATED
        ),
        "a deflated pickle": _zip({"a/data.pkl": b"}" * (100 << 20)}, zipfile.ZIP_DEFLATED),
        "bzip2": _zip({"a/data.pkl": b"}."}, zipfile.ZIP_BZIP2),
        "lzma": _zip({"a/data.pkl": b"}."}, zipfile.ZIP_LZMA),
        "entries that overlap": _overlapping(),
        "a long directory": _long_directory(),
        "an encrypted entry": _encrypted(),
        "no pickle": _zip({"a/data/0": b"x"}),
        "nothing": _zip({}),
        "a script": _zip({"a/data.pkl": b"}.", "a/constants.pkl": b").", "a/code/x.py": b""}),
        "an exported program": _zip({"archive_format": b"pt2", "models/model/archive_format": b"pt2"}),
        "a path upwards": _zip({"../../data.pkl": state_dict(b"N")}),
        "big endian": _zip({"a/data.pkl": b"}.", "a/byteorder": b"big"}),
        "another checksum": _patched(_zip({"a/data.pkl": state_dict(b"N")}), b"conv1.weight", b"conv2.weight"),
    }


def _zip(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return buffer.getvalue()


def _patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new, 1)


def _overlapping() -> bytes:
    """One megabyte that two thousand entries claim."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("a/data.pkl", b"}.")
        made.writestr("a/data/0", bytes(1 << 20))
        first = made.getinfo("a/data/0")
        for i in range(2000):
            entry = zipfile.ZipInfo(f"a/data/{i + 1}")
            entry.header_offset, entry.CRC = first.header_offset, first.CRC
            entry.file_size = entry.compress_size = first.file_size
            made.filelist.append(entry)
    return buffer.getvalue()


def _long_directory() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("a/data.pkl", b"}.")
        for i in range(300):
            entry = zipfile.ZipInfo(f"a/data/{i}")
            entry.header_offset, entry.CRC, entry.comment = 0, 0, bytes(60_000)
            made.filelist.append(entry)
    return buffer.getvalue()


def _encrypted() -> bytes:
    content = bytearray(_zip({"a/data.pkl": b"}."}))
    content[6] |= 1
    directory = content.rindex(b"PK\1\2")
    content[directory + 8] |= 1
    return bytes(content)


def flipped(content: bytes, count: int) -> Iterator[bytes]:
    """Yield copies with one bit changed, at places spread over the whole."""
    generator = torch.Generator().manual_seed(len(content))
    for _ in range(count):
        copy = bytearray(content)
        place = int(torch.randint(len(content) * 8, (1,), generator=generator))
        copy[place // 8] ^= 1 << place % 8
        yield bytes(copy)
