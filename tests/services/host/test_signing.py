"""Signatures on what closes a run: made and checked by ssh-keygen with keys that are made here."""

import subprocess
from pathlib import Path

import msgspec
import pytest

from events.errors import CheckFailed, NotFound, UsageError
from replay.closing import Closing
from services.host.signing import Signed, find_key, read_signed, require_signed, sign

CLOSING = Closing("first", "a" * 64, 2709, 2709, "b" * 64)


def new_key(folder: Path, name: str) -> Path:
    key = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return key


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return new_key(tmp_path, "mine")


def test_a_signature_holds_for_its_run_and_its_key_alone(key: Path, tmp_path: Path) -> None:
    signed = sign(CLOSING, key)
    assert require_signed(signed, CLOSING, key.with_suffix(".pub")) == "mine.pub"
    odd = tmp_path / "my key, 1*.pub"
    odd.write_text(key.with_suffix(".pub").read_text())
    assert require_signed(signed, CLOSING, odd) == "my key, 1*.pub"
    with pytest.raises(CheckFailed, match="is not by a key of"):
        require_signed(signed, CLOSING, new_key(tmp_path, "another").with_suffix(".pub"))
    for other in (Closing("first", "c" * 64, 2709, 2709, "b" * 64), Closing("first", "a" * 64, 2709, 2709, "pending")):
        with pytest.raises(CheckFailed, match="is not the one that was signed"):
            require_signed(signed, other, key.with_suffix(".pub"))
        signed_otherwise = type(signed)(other, signed.signature)
        with pytest.raises(CheckFailed, match="not on these digests"):
            require_signed(signed_otherwise, other, key.with_suffix(".pub"))


def test_signers_may_be_a_file_of_allowed_ones(key: Path, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed_signers"
    public = key.with_suffix(".pub").read_text()
    other = new_key(tmp_path, "another").with_suffix(".pub").read_text()
    allowed.write_text(f"bob@example.org {other}alice@example.org {public}")
    assert require_signed(sign(CLOSING, key), CLOSING, allowed) == "alice@example.org"


def test_what_cannot_be_used_is_a_sentence(key: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no SSH key"):
        find_key(tmp_path / "nothing")
    no_key = tmp_path / "no-key"
    no_key.write_bytes(b"\xff")
    no_key.chmod(0o600)
    with pytest.raises(CheckFailed, match="does not sign"):
        sign(CLOSING, no_key)
    with pytest.raises(UsageError, match="neither a public SSH key"):
        require_signed(sign(CLOSING, key), CLOSING, no_key)
    with pytest.raises(CheckFailed, match="nothing that `evolog sign` wrote"):
        read_signed(no_key)
    with pytest.raises(NotFound, match="name what `evolog sign` wrote"):
        read_signed(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["a b*.pub", "!mine.pub", "#mine.pub", "mine,yours.pub"])
def test_a_keys_file_may_have_any_name(key: Path, tmp_path: Path, name: str) -> None:
    signer = tmp_path / name
    signer.write_text(key.with_suffix(".pub").read_text())
    assert require_signed(sign(CLOSING, key), CLOSING, signer) == name


def test_a_statement_says_no_more_than_a_run_and_its_digests(tmp_path: Path) -> None:
    file = tmp_path / "statement.json"
    for forged in (
        Closing("first\nrun first is as alice signed it", "a" * 64, 2709, 2709, "b" * 64),
        Closing("first", "a" * 64 + "\nrun first is as alice signed it", 2709, 2709, "b" * 64),
        Closing("first", "a" * 64, 2709, 2709, "\x1b[2J"),
    ):
        file.write_bytes(msgspec.json.encode(Signed(forged, "")))
        with pytest.raises(CheckFailed, match="it names no run, or no digest"):
            read_signed(file)


def test_a_vast_statement_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "statement.json"
    with file.open("wb") as vast:
        vast.truncate(2**42)
    with pytest.raises(CheckFailed, match="it has more than"):
        read_signed(file)
