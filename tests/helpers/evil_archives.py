"""Archives that nobody should send, made byte by byte, because libraries refuse to write most of them."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from training.trainer.stored.archive import zstd_module

zstd = zstd_module()
END = bytes(1024)
MIB = bytes(2**20)


def header(name: str, size: int = 0, kind: bytes = b"0", mode: int = 0o644, link: str = "", form: int = 0) -> bytes:
    """Return a header block as it is asked for."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode, info.linkname = size, kind, mode, link
    return info.tobuf(form or tarfile.USTAR_FORMAT, "latin-1")


def member(name: str, content: bytes = b"x", **fields: int) -> bytes:
    """Return a regular file."""
    return header(name, len(content), **fields) + content + bytes(-len(content) % 512)


def patched(block: bytes, at: int, data: bytes) -> bytes:
    """Return a header with other bytes and the right checksum."""
    block = block[:at] + data + block[at + len(data) :]
    total = sum(block[:148]) + sum(block[156:512]) + 8 * 32
    return block[:148] + b"%06o\0 " % total + block[156:]


def compressed(pieces: Iterable[bytes]) -> bytes:
    compressor = zstd.ZstdCompressor(level=1)
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])


def wide(data: bytes) -> bytes:
    """Compress so that a reader needs a window of 128 MiB."""
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.compression_level: 1}
    compressor = zstd.ZstdCompressor(options=options)
    return bytes(compressor.compress(data) + compressor.flush())


def zeros(count: int) -> Iterator[bytes]:
    return (MIB for _ in range(count))


def tar(*blocks: bytes) -> bytes:
    return compressed([*blocks, END])


WHOLE = tar(member("a", bytes(range(256)) * 8))

# Name: bundle, and a part of the refusal.
EVIL: dict[str, tuple[bytes, str]] = {
    # where a file would go
    "absolute": (tar(member("/etc/passwd")), "'/etc/passwd' is not a plain file name"),
    "parent": (tar(member("../out")), "'../out' is not a plain file name"),
    "parent in the middle": (tar(member("a/../../out")), "is not a plain file name"),
    "parent in the prefix": (tar(patched(member("out"), 345, b"..")), "'../out' is not a plain file name"),
    "link, then through it": (
        tar(header("in", kind=b"2", link="/tmp"), member("in/out")),
        "'in' is not a regular file",
    ),
    "hard link": (tar(header("in", kind=b"1", link="/etc/passwd")), "'in' is not a regular file"),
    "character device": (tar(header("in", kind=b"3")), "'in' is not a regular file"),
    "block device": (tar(header("in", kind=b"4")), "'in' is not a regular file"),
    "fifo": (tar(header("in", kind=b"6")), "'in' is not a regular file"),
    "folder": (tar(header("in", kind=b"5")), "'in/' is not a regular file"),
    "regular file with a link's target": (tar(patched(member("in"), 157, b"/etc/passwd")), "is not a regular file"),
    # what other systems make of a name
    "duplicate": (tar(member("a"), member("b"), member("a")), "holds 'a' twice"),
    "case clash": (tar(member("Model"), member("model")), "'Model' and 'model', which are one name on Windows"),
    "case clash of folders": (tar(member("A/x"), member("a/y")), "'A' and 'a', which are one name on Windows"),
    "file as folder": (tar(member("a"), member("a/b")), "'a' as a file and as a folder"),
    "folder as file": (tar(member("a/b"), member("a")), "'a' as a file and as a folder"),
    "reserved name": (tar(member("nul.txt")), "is not a plain file name"),
    "reserved name before a space": (tar(member("NUL .txt")), "is not a plain file name"),
    "stream of a file": (tar(member("model.txt:hidden")), "is not a plain file name"),
    "drive": (tar(member("C:/out")), "is not a plain file name"),
    "backslash": (tar(member("..\\out")), "is not a plain file name"),
    "newline": (tar(member("a\nb")), r"'a\nb' is not a plain file name"),
    "escape sequence": (tar(member("\x1b[31m")), r"'\x1b[31m' is not a plain file name"),
    "trailing dot": (tar(member("a.")), "is not a plain file name"),
    "trailing space": (tar(member("a ")), "is not a plain file name"),
    "leading dash": (tar(member("-rf")), "is not a plain file name"),
    "no ASCII": (tar(member("\xe9")), r"'\xe9' is not a plain file name"),
    "no name": (tar(patched(header("a"), 0, b"\0")), "'' is not a plain file name"),
    "slash at the end": (tar(patched(member("a"), 1, b"/")), "'a/' is not a plain file name"),
    "deep": (tar(member("/".join("d" * 17) + "/f")), "lies deeper than 16 folders"),
    # what stands beside a name
    "setuid": (tar(member("a", mode=0o4755)), "has the mode 4755"),
    "sticky": (tar(member("a", mode=0o1777)), "has the mode 1777"),
    "size as no octal": (tar(patched(header("a"), 124, b"\x80" + bytes(10) + b"\x01")), "has an odd number"),
    "owner as no octal": (tar(patched(header("a"), 108, b"\x80")), "has an odd number"),
    "negative size": (tar(patched(header("a"), 124, b"-0000000001")), "has an odd number"),
    "size beyond the limit": (tar(patched(header("a"), 124, b"777777777777")), "is larger than 8192 MiB"),
    "wrong checksum": (compressed([b"b" + member("a")[1:], END]), "a header's checksum is wrong"),
    "bytes behind a name": (tar(patched(header("a"), 2, b"hidden")), "bytes hide behind a name"),
    "bytes behind a file": (tar(member("a")[:-1] + b"x"), "bytes hide behind 'a'"),
    # other forms
    "extended header": (tar(header("a", kind=b"x")), "'a' is not a regular file"),
    "global extended header": (tar(header("a", kind=b"g")), "'a' is not a regular file"),
    "GNU long name": (tar(header("a", kind=b"L")), "'a' is not a regular file"),
    "sparse": (tar(header("a", kind=b"S")), "'a' is not a regular file"),
    "GNU form": (tar(header("a", form=tarfile.GNU_FORMAT)), "a header of another kind; expected USTAR"),
    # ends
    "empty": (b"", "it ends too early"),
    "no zstd": (gzip.compress(member("a") + END), "Unable to decompress"),
    "no file": (tar(), "holds no file"),
    "cut frame": (WHOLE[:-1], "it ends too early"),
    "cut archive": (compressed([member("a")]), "it ends too early"),
    "cut file": (compressed([header("a", 4096), b"x"]), "it ends too early"),
    "one end block": (compressed([member("a"), bytes(512)]), "it ends too early"),
    "archive behind the end": (tar(member("a"), END, member("../out")), "bytes stand behind its end"),
    "end in the middle": (tar(member("a"), bytes(512), member("b")), "its end is marked in the middle"),
    "endless padding": (tar(member("a"), bytes(2**20)), "bytes stand behind its end"),
    "byte behind the frame": (WHOLE + b"x", "bytes stand behind its zstd frame"),
    "second frame": (WHOLE + WHOLE, "bytes stand behind its zstd frame"),
}


def bombs(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """Write bundles that unfold to much more than they are; yield name, path and a part of the refusal."""
    made: tuple[tuple[str, bytes, str], ...] = (
        ("zstd", compressed([header("a", 1 << 28), *zeros(256), END]), "more than 200 times its size"),
        ("gzip", gzip.compress(header("a", 32 << 20) + bytes(32 << 20), 1), "Unable to decompress"),
        ("extended header", compressed([header("a", 1 << 28, b"x"), *zeros(256)]), "is not a regular file"),
        (
            "sparse",
            tar(patched(header("a", 512, b"S", form=tarfile.GNU_FORMAT), 483, b"77777777777\0")),
            "is not a regular file",
        ),
        ("members", compressed([*(header(f"f{n}") for n in range(20_000)), END]), "more than 10000 files"),
        ("window", wide(header("a", 1 << 27) + bytes(1 << 20)), "requires too much memory"),
    )
    for name, data, refusal in made:
        path = folder / f"{name}.tar.zst"
        path.write_bytes(data)
        yield name, path, refusal
