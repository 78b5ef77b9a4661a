"""What stands in a text in another form: escapes, base64, hex, lists of code points, UTF-16, and compressed data.

It is linear in the text: each run of characters that may be an encoding is decoded once for each way that it may be
aligned, and only what then looks like text is handed on.
"""

import binascii
import bz2
import html
import io
import lzma
import re
import string
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache
from urllib.parse import unquote

DEPTH = 3
"""How many encodings may lie around a text."""
LARGEST = 1 << 24
"""Bytes that compressed data are expanded to at most."""
COMPRESSED = 16
"""The places in a piece of data that are tried as the beginning of compressed data."""

LETTERS_AND_DIGITS = string.ascii_letters + string.digits
HEX, BASE64 = string.hexdigits, LETTERS_AND_DIGITS + "+/_-"
_RUN = re.compile(r"[A-Za-z0-9+/_-]{16,}")
_HEX_RUN = re.compile(r"[0-9a-fA-F]{16,}")
_PAIRS = re.compile(r"[0-9a-fA-F][0-9a-fA-F][\s:,]{1,2}(?:[0-9a-fA-F]{2}[\s:,]{1,2}){14}")
"""15 pairs: `re` skips what none can begin with where an expression begins with one character, so the first stands
alone; likewise in `_CODES`.
"""
_JOINT = re.compile(r"""["']\s*\+\s*["']|\\[nrt]|[\s"'\\,:]""")
"""What stands between the parts of an encoding that is broken over lines or literals."""
_URL_SAFE = str.maketrans("-_", "+/")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|[nrt])")
_ENTITY = re.compile(r"&#?\w{1,31};")
_PERCENT = re.compile(r"%[0-9a-fA-F]{2}")
_QUOTED = re.compile(r"=([0-9A-F]{2})")
_CODES = re.compile(
    r"\d(?:\d{1,6}(?:\W{1,4}(?:chr\()?\d{2,7}){15,}|(?<=0)x[0-9a-fA-F]{2,6}(?:\W{1,4}0x[0-9a-fA-F]{2,6}){15,})"
)
_CODE = re.compile(r"0x[0-9a-fA-F]+|\d+")
_LIKELY_UTF_8 = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xf4]{12,}")
_UTF_8 = re.compile(
    rb"(?:[\t\n\r\x20-\x7e]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}){12,}"
)
_UTF_16 = re.compile(rb"[\0-\x06\x30\x4e-\x9f\xac-\xd7\xff]{20,}")
"""The upper bytes of letters, Latin to Arabic, Chinese, Japanese and Korean."""
_MAGIC = re.compile(rb"\x1f\x8b\x08|x[\x01\x5e\x9c\xda]|BZh[1-9]1AY|\xfd7zXZ\0|PK\x03\x04")


def tokens(text: str, characters: str) -> set[bytes]:
    """The words of a text that are made of these ASCII characters, as long as each goes on."""
    return set(text.encode("ascii", "replace").translate(_spaced(characters)).split())


def has_run(text: str, characters: str, length: int) -> bool:
    """Whether so many of these ASCII characters stand in a row in a text, in a tenth of the time of `re`."""
    return b"x" * length in text.encode("ascii", "replace").translate(_marked(characters))


@cache
def _spaced(characters: str) -> bytes:
    """A table that makes a space of all other bytes."""
    return bytes(code if chr(code) in characters else 32 for code in range(256))


@cache
def _marked(characters: str) -> bytes:
    """A table that makes an x of each of them, and a space of all other bytes."""
    return bytes(b"x"[0] if chr(code) in characters else 32 for code in range(256))


def decoded(text: str, depth: int = DEPTH) -> Iterator[tuple[str, str]]:
    """The texts that a text holds in another form, each with the name of the outermost form."""
    plain = _unescaped(text)
    if plain != text:
        yield "escaped", plain
    found = [("code points", _of_codes(run)) for run in _CODES.findall(plain)]
    runs = _RUN.findall(plain) if has_run(plain, BASE64, 16) else []
    if runs or _PAIRS.search(plain):
        joined = _JOINT.sub("", plain)
        found += [
            ("hex", inner) for run in _HEX_RUN.findall(joined) for start in (0, 1) for inner in _of_hex(run[start:])
        ]
        aligned = [*runs, *(run[start:] for run in _RUN.findall(joined) for start in range(4))]
        found += [("base64", inner) for run in aligned for inner in _of_base64(run)]
    for form, inner in found:
        yield form, inner
        if depth > 1:
            yield from ((form, within) for _, within in decoded(inner, depth - 1))


def texts_of(data: bytes, depth: int = DEPTH) -> Iterator[str]:
    """What can be read as text in data of any kind, with what is compressed in it."""
    runs = [run for likely in _LIKELY_UTF_8.findall(data) for run in _UTF_8.findall(likely)]
    if runs:
        yield b"\n".join(runs).decode(errors="replace")
    for offset in (0, 1):
        for upper in _UTF_16.finditer(data[offset::2]):
            start, end = offset + 2 * upper.start(), offset + 2 * upper.end()
            yield data[start:end].decode("utf-16-be", errors="replace")
            yield data[max(0, start - 1) : end - 1].decode("utf-16-le", errors="replace")
    if depth > 1:
        for place in [match.start() for match in _MAGIC.finditer(data)][:COMPRESSED]:
            for expanded in _expanded(data[place:]):
                yield from texts_of(expanded, depth - 1)


def _unescaped(text: str) -> str:
    if "&" in text and _ENTITY.search(text):
        text = html.unescape(text)
    if "%" in text and _PERCENT.search(text):
        text = unquote(text, errors="replace")
    if "=" in text and len(_QUOTED.findall(text)) > 3:
        text += "\n" + unquote(_QUOTED.sub(r"%\1", text.replace("=\n", "")), errors="replace")
    if "\\" in text and _ESCAPE.search(text):
        text = _ESCAPE.sub(_character, text)
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", errors="replace")  # two halves make one
        text = re.sub(r"[\x80-\xff]{2,}", lambda match: _as_utf_8(match[0]), text)
    return text


def _character(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2] or escape[3]
    return chr(min(int(code, 16), 0x10FFFF)) if code else " "


def _as_utf_8(text: str) -> str:
    """The text whose UTF-8 these characters are byte by byte; where they are none, the characters."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _of_codes(run: str) -> str:
    codes = [int(code, 0) if code.startswith("0x") else int(code) for code in _CODE.findall(run)]
    return _as_utf_8("".join(chr(code) for code in codes if code <= 0x10FFFF and not 0xD800 <= code < 0xE000))


def _of_hex(run: str) -> Iterator[str]:
    return texts_of(bytes.fromhex(run[: len(run) // 2 * 2]))


def _of_base64(run: str) -> Iterator[str]:
    whole = run[: len(run) - (len(run) % 4 == 1)].translate(_URL_SAFE)
    return texts_of(binascii.a2b_base64(whole + "=" * (-len(whole) % 4)))


def _expanded(data: bytes) -> Iterator[bytes]:
    """The data that begin compressed here, up to `LARGEST` bytes of them."""
    try:
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for name in archive.namelist()[:COMPRESSED]:
                    with archive.open(name) as member:
                        yield member.read(LARGEST)
        elif data.startswith(b"BZh"):
            yield bz2.BZ2Decompressor().decompress(data, LARGEST)
        elif data.startswith(b"\xfd7zXZ"):
            yield lzma.LZMADecompressor().decompress(data, LARGEST)
        else:
            yield zlib.decompressobj(wbits=47).decompress(data, LARGEST)
    except (zlib.error, zipfile.BadZipFile, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError):
        return  # it only begins like that, or is encrypted
