"""Hidden items are found in whatever form they stand in a file of a scaffold, and honest files hold none."""

import base64
import bz2
import codecs
import gzip
import hashlib
import io
import json
import lzma
import random
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable, Sequence

import msgspec
import pytest

from replay.audit.provenance.digests import MANY
from replay.audit.provenance.leaks import hidden_in_sight
from runtime.blobs.directory import Tree
from tests.harness.audited_facts import MemoryBlobs, as_stored, proposed

WORDS = "harbour beam note storm gate shaft thread baker forged winter mended roof ledger candle orchard anchor kettle"
SIGNS = (
    "冬天面包师卖给港口主人十九个面包他用假钞付款两木匠为一根横梁争吵直到老的离开年轻独自在暴风雨来之前完成屋顶"
    "被告盗窃罪判处有期徒刑"
)


def prompts(seed: int, number: int, chinese: bool = False) -> list[str]:
    rng = random.Random(seed)
    if chinese:
        return ["".join(rng.choices(SIGNS, k=150)) + "。" for _ in range(number)]
    return [f"Name the trade: {' '.join(rng.choices(WORDS.split(), k=30))}.\nThink first." for _ in range(number)]


def ids(number: int) -> list[str]:
    return [hashlib.sha256(b"id %d" % place).hexdigest()[:12] for place in range(number)]


HIDDEN = dict(zip(ids(12), [*prompts(1, 8), *prompts(2, 4, chinese=True)], strict=True))
PUBLIC = prompts(3, 12)
ENGLISH, CHINESE = list(HIDDEN.values())[3], list(HIDDEN.values())[9]
ID = ids(12)[3]


def found(data: bytes, path: str = "answers.py") -> list[str]:
    """What is said of a scaffold with this file."""
    blobs = MemoryBlobs()
    digest = blobs.put(msgspec.json.encode(Tree({"agent.py": blobs.put(b"X = 1"), path: blobs.put(data)})))
    faults = hidden_in_sight(as_stored([proposed(1, digest)]), blobs.__getitem__, HIDDEN, PUBLIC)
    return [fault.sentence for fault in faults]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def wrapped(text: str) -> str:
    """Broken over lines as Python's literals are."""
    return "(\n" + "\n".join(f'    "{text[place : place + 40]}"' for place in range(0, len(text), 40)) + "\n)"


def zipped(data: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("answers.txt", data)
    return file.getvalue()


FORMS: dict[str, Callable[[str], str]] = {
    "base64": lambda text: b64(text.encode()),
    "base64, after one byte": lambda text: b64(b"-" + text.encode()),
    "base64, after two bytes": lambda text: b64(b"--" + text.encode()),
    "base64, after a word": lambda text: "data/" + b64(text.encode()),
    "base64, url-safe": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "base64, over lines": lambda text: base64.encodebytes(text.encode()).decode(),
    "base64, over literals": lambda text: wrapped(b64(text.encode())),
    "base64, added up": lambda text: '" + "'.join(
        b64(text.encode())[place : place + 32] for place in range(0, 900, 32)
    ),
    "base64 twice": lambda text: b64(b64(text.encode()).encode()),
    "base64 of gzip": lambda text: b64(gzip.compress(text.encode())),
    "base64 of zlib": lambda text: b64(zlib.compress(text.encode(), 9)),
    "base64 of bz2": lambda text: b64(bz2.compress(text.encode())),
    "base64 of xz": lambda text: b64(lzma.compress(text.encode())),
    "base64 of gzip of base64": lambda text: b64(gzip.compress(b64(text.encode()).encode())),
    "base64 of UTF-16": lambda text: b64(text.encode("utf-16")),
    "base64 of UTF-16, big end first": lambda text: b64(text.encode("utf-16-be")),
    "hex": lambda text: text.encode().hex(),
    "hex, upper": lambda text: text.encode().hex().upper(),
    "hex, in pairs": lambda text: text.encode().hex(" "),
    "hex, after a digit": lambda text: "1" + text.encode().hex(),
    "hex of zlib": lambda text: zlib.compress(text.encode()).hex(),
    "escaped bytes": lambda text: "".join(f"\\x{byte:02x}" for byte in text.encode()),
    "percent": lambda text: urllib.parse.quote(text),
    "percent, all": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "quoted-printable": lambda text: codecs.encode(text.encode(), "quopri").decode(),
    "escaped unicode": lambda text: "".join(f"\\u{ord(sign):04x}" for sign in text),
    "escaped JSON": lambda text: json.dumps(text),
    "a literal": repr,
    "HTML entities": lambda text: "".join(f"&#{ord(sign)};" for sign in text),
    "HTML entities, hex": lambda text: "".join(f"&#x{ord(sign):x};" for sign in text),
    "code points": lambda text: str([ord(sign) for sign in text]),
    "bytes": lambda text: str(list(text.encode())),
    "calls of chr": lambda text: "+".join(f"chr({ord(sign)})" for sign in text),
    "backwards": lambda text: text[::-1],
    "backwards in base64": lambda text: b64(text[::-1].encode()),
    "upper-case": str.upper,
    "full-width": lambda text: "".join(chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in text),
}


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["english", "chinese"])
@pytest.mark.parametrize("form", FORMS)
def test_a_hidden_prompt_is_found_in_every_form(form: str, text: str) -> None:
    (said,) = found(f'ANSWERS = {{"{FORMS[form](text)}": "baker"}}\n'.encode())
    id = next(id for id, prompt in HIDDEN.items() if prompt == text)
    assert f"holds the id or the text of 1 hidden item, such as '{id}'" in said
    (said,) = found(json.dumps({"table": [FORMS[form](text)]}).encode(), "answers.json")
    assert f"such as '{id}'" in said


@pytest.mark.parametrize("form", ["rot13", "rot13 backwards", "rot13 in base64"])
def test_a_hidden_prompt_is_found_in_rot13(form: str) -> None:
    text = codecs.encode(ENGLISH, "rot13")
    assert found({"rot13": text, "rot13 backwards": text[::-1]}.get(form, b64(text.encode())).encode())


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, bz2.compress, lzma.compress, zipped])
def test_a_hidden_prompt_is_found_in_a_compressed_file(pack: Callable[[bytes], bytes]) -> None:
    assert found(pack(json.dumps(HIDDEN).encode()), "data.bin")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_a_hidden_prompt_is_found_in_utf_16(text: str, encoding: str) -> None:
    assert found(text.encode(encoding), "data.txt")


@pytest.mark.parametrize(
    "form", [str, lambda id: b64(id.encode()), lambda id: b64(id.encode()).rstrip("="), lambda id: id[::-1]]
)
def test_a_hidden_id_is_found_in_every_form(form: Callable[[str], str]) -> None:
    assert f"1 hidden item, such as '{ID}'" in found(f"X = {{'{form(ID)}': 3}}".encode())[0]
    assert found(f"X = {{'{ID.encode().hex()}': 3}}".encode())
    assert found(f"X = {{'{codecs.encode(ID, 'rot13')}': 3}}".encode())


HASHES = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256", "blake2b", "blake2s")


@pytest.mark.parametrize("name", HASHES)
@pytest.mark.parametrize("what", [ENGLISH, ENGLISH.lower(), ENGLISH + "\n", ID])
def test_a_single_whole_digest_is_found(name: str, what: str) -> None:
    digest = hashlib.new(name, what.strip().encode())
    forms = [digest.hexdigest(), digest.hexdigest().upper(), digest.hexdigest()[:16], digest.hexdigest()[:24]]
    forms += [b64(digest.digest()), base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")]
    forms += [str(int(digest.hexdigest(), 16)), str(int(digest.hexdigest()[:16], 16)), hex(int(digest.hexdigest(), 16))]
    forms += [str(int.from_bytes(digest.digest()[:8], "little", signed=True)), b64(digest.hexdigest().encode())]
    for form in forms:
        (said,) = found(f"X = {{'{form}': 'baker'}}".encode())
        assert said.endswith(f"holds digests ({name}) of 1 hidden item, such as '{ID}'."), form


SHORT: dict[str, Callable[[bytes], object]] = {
    "8 digits": lambda data: hashlib.md5(data).hexdigest()[:8],
    "12 digits": lambda data: hashlib.sha256(data).hexdigest()[:12],
    "the last 8 digits": lambda data: hashlib.sha512(data).hexdigest()[-8:],
    "a number of 32 bits": lambda data: int(hashlib.md5(data).hexdigest()[:8], 16),
    "modulo 10^8": lambda data: int(hashlib.sha256(data).hexdigest(), 16) % 10**8,
    "crc32": zlib.crc32,
    "crc32 in hex": lambda data: f"0x{zlib.crc32(data):08x}",
}


@pytest.mark.parametrize("name", SHORT)
def test_short_digests_are_found_where_many_stand_together(name: str) -> None:
    digests = [SHORT[name](prompt.encode()) for prompt in HIDDEN.values()]
    assert "holds digests (" in found(f"X = {dict.fromkeys(digests, 'baker')}".encode())[0]
    assert "holds digests (" in found(json.dumps(dict.fromkeys(digests, "baker")).encode(), "x.json")[0]
    assert "holds digests (" in found(json.dumps(digests).encode(), "x.json")[0]
    assert not found(f"X = {dict.fromkeys(digests[: MANY - 1], 'baker')}".encode()), "a few may be chance"


def test_packed_digests_are_found_in_a_long_run_of_digits() -> None:
    packed = "".join(hashlib.md5(prompt.encode()).hexdigest()[:16] for prompt in [*PUBLIC, *HIDDEN.values()])
    assert "of 12 hidden items" in found(f"X = '{packed}'".encode())[0]


HONEST: dict[str, Callable[[random.Random], bytes | str]] = {
    "an image": lambda rng: f"IMAGE = '{b64(rng.randbytes(60_000))}'",
    "an image over lines": lambda rng: f"IMAGE = {wrapped(b64(rng.randbytes(20_000)))}",
    "an image as hex": lambda rng: rng.randbytes(20_000).hex(),
    "a binary file": lambda rng: rng.randbytes(60_000),
    "public items in base64": lambda rng: "\n".join(b64(text.encode()) for text in PUBLIC),
    "public items in every form": lambda rng: "\n".join(form(PUBLIC[0]) for form in FORMS.values()),
    "public items, compressed": lambda rng: gzip.compress("\n".join(PUBLIC).encode()),
    "digests of public items": lambda rng: "\n".join(hashlib.md5(text.encode()).hexdigest() for text in PUBLIC),
    "short digests of public items": lambda rng: "\n".join(f"{zlib.crc32(text.encode())}" for text in PUBLIC),
    "digests of nothing": lambda rng: "\n".join(rng.randbytes(32).hex() for _ in range(2_000)),
    "short digests of nothing": lambda rng: "\n".join(rng.randbytes(4).hex() for _ in range(20_000)),
    "numbers": lambda rng: json.dumps([rng.randrange(10**8, 2**32) for _ in range(20_000)]),
    "bytes": lambda rng: str(list(rng.randbytes(5_000))),
    "prose": lambda rng: " ".join(rng.choices(WORDS.split(), k=5_000)),
    "words of the task": lambda rng: "\n".join(prompt[:45] for prompt in HIDDEN.values()),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_file_holds_nothing_hidden(name: str) -> None:
    for seed in range(3):
        data = HONEST[name](random.Random(100 + seed))
        assert found(data.encode() if isinstance(data, str) else data, "data.bin") == []


def test_a_prompt_that_is_public_too_leaves_no_digest() -> None:
    global PUBLIC
    before: Sequence[str] = PUBLIC
    try:
        PUBLIC = [*before, ENGLISH]
        assert found(hashlib.md5(ENGLISH.encode()).hexdigest().encode()) == []
        assert found(hashlib.md5(ID.encode()).hexdigest().encode()), "its id is not public"
    finally:
        PUBLIC = list(before)


def test_what_is_not_looked_for() -> None:
    """What the page of the audit says under what it cannot see."""
    key = bytes(random.Random(1).randbytes(1)[0] for _ in range(2_000))
    for text in (
        b64(bytes(one ^ other for one, other in zip(ENGLISH.encode(), key, strict=False))),
        base64.b85encode(ENGLISH.encode()).decode(),
        hashlib.md5(b"salt" + ENGLISH.encode()).hexdigest(),
        hashlib.md5((ENGLISH + "baker").encode()).hexdigest(),
        "baker miner weaver smith",
    ):
        assert found(text.encode()) == []
