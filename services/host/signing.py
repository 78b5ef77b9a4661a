"""Signs what closes a run with the user's SSH key, and checks such a signature: all cryptography is ssh-keygen's."""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from events.errors import CheckFailed, Misconfigured, NotFound, UsageError
from events.subjects import RUN_NAME
from replay.closing import PENDING, Closing

NAMESPACE = "evolog"
"""What the signatures are for (`ssh-keygen -n`), so that none made for something else passes."""
USUAL_KEYS = ("id_ed25519", "id_ed25519_sk", "id_ecdsa", "id_ecdsa_sk", "id_rsa")
_SIGNED_LIMIT = 1024**2
"""Bytes of a signed statement."""
_SIGNER = "signer"
"""Whom the signers' file names for a single key: a file's own name may hold what means something there."""
_PUBLIC_KEY = re.compile(r"(ssh|ecdsa|sk)-\S+ \S+")


class Signed(msgspec.Struct):
    """A signed statement of the digests that close a run, as it stands in a file."""

    closing: Closing
    signature: str
    """As ssh-keygen writes it, in PEM."""


def sign(closing: Closing, key: Path) -> Signed:
    """Sign with a private key, or with a public one whose private half an ssh-agent holds.

    Raises `CheckFailed` where ssh-keygen does not, with its words.
    """
    with tempfile.TemporaryDirectory(prefix="evolog-") as folder:
        text = Path(folder, "statement")
        text.write_text(_statement(closing))
        signed = _ssh_keygen("-Y", "sign", "-q", "-f", str(key), "-n", NAMESPACE, str(text))
        signature = Path(f"{text}.sig")
        if signed.returncode or not signature.exists():
            raise CheckFailed(f"{key} does not sign: {_words(signed)}.")
        return Signed(closing, signature.read_text())


def require_signed(signed: Signed, closing: Closing, signers: Path) -> str:
    """Check that these are the signed digests, and that one of the signers signed them; the signer's name.

    `signers` is a public key, or a file of allowed signers (`man ssh-keygen`). Raises `CheckFailed`.
    """
    if signed.closing != closing:
        raise CheckFailed(
            f"Run {closing.run} is not the one that was signed: it closes with {closing.log} on EVOLOG and "
            f"{closing.gold} on GOLD, and signed are {signed.closing.log} and {signed.closing.gold} of run "
            f"{signed.closing.run}."
        )
    with tempfile.TemporaryDirectory(prefix="evolog-") as folder:
        signature, allowed = Path(folder, "signature"), Path(folder, "allowed")
        signature.write_text(signed.signature)
        allowed.write_text(_allowed_signers(signers))
        found = _ssh_keygen("-Y", "find-principals", "-s", str(signature), "-f", str(allowed))
        name = found.stdout.decode(errors="replace").split("\n")[0]
        verified = _ssh_keygen(
            "-Y", "verify", "-f", str(allowed), "-I", name or "?", "-n", NAMESPACE, "-s", str(signature),
            text=_statement(closing),
        )  # fmt: skip
        if found.returncode or verified.returncode:
            raise CheckFailed(
                f"The signature on run {closing.run} is not by a key of {signers}, or not on these digests: "
                f"{_words(verified)}."
            )
        return signers.name if name == _SIGNER else name


def find_key(named: Path | None, suffix: str = "") -> Path:
    """The key that was named, or else the user's usual one; raises `NotFound` where there is none."""
    keys = [named] if named else [Path.home() / ".ssh" / f"{name}{suffix}" for name in USUAL_KEYS]
    for key in keys:
        if key.is_file():
            return key
    raise NotFound(f"There is no SSH key at {keys[0]}: name yours, or make one with `ssh-keygen -t ed25519`.")


def read_signed(file: Path) -> Signed:
    """The statement in a file; raises `CheckFailed` where it holds none, `NotFound` where it is not there."""
    if not file.is_file():
        raise NotFound(f"There is no {file}: name what `evolog sign` wrote.")
    with file.open("rb") as opened:
        text = opened.read(_SIGNED_LIMIT + 1)
    try:
        if len(text) > _SIGNED_LIMIT:
            raise ValueError(f"it has more than {_SIGNED_LIMIT:,} bytes")
        signed = msgspec.json.decode(text, type=Signed)
        if not (re.fullmatch(RUN_NAME, signed.closing.run) and _is_digest(signed.closing.log, signed.closing.gold)):
            raise ValueError("it names no run, or no digest")
    except (msgspec.DecodeError, ValueError, RecursionError) as wrong:
        raise CheckFailed(f"{file} is nothing that `evolog sign` wrote ({wrong}).") from wrong
    return signed


def _is_digest(*texts: str) -> bool:
    return all(re.fullmatch(f"[0-9a-f]{{64}}|{PENDING}", text) for text in texts)


def _statement(closing: Closing) -> str:
    """The text that is signed."""
    return (
        f"evolog run {closing.run}\nEVOLOG {closing.log}, {closing.events} events to sequence {closing.sequence}\n"
        f"GOLD {closing.gold}\n"
    )


def _allowed_signers(file: Path) -> str:
    try:
        text = file.read_text()
    except UnicodeDecodeError as wrong:
        raise UsageError(f"{file} is neither a public SSH key nor a file of allowed signers.") from wrong
    return f"{_SIGNER} {text}" if _PUBLIC_KEY.match(text) else text


def _ssh_keygen(*arguments: str, text: str = "") -> "subprocess.CompletedProcess[bytes]":
    command: Sequence[str] = ("ssh-keygen", *arguments)
    try:
        # a passphrase is asked for on the terminal itself
        return subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    except FileNotFoundError as wrong:
        raise Misconfigured("ssh-keygen is not here, which signs and verifies: install OpenSSH's client.") from wrong


def _words(done: "subprocess.CompletedProcess[bytes]") -> str:
    """What ssh-keygen said, on one line."""
    return " ".join((done.stderr or done.stdout).decode(errors="replace").split()).rstrip(".") or "it says nothing"
