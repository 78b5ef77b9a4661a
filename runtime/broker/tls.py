"""TLS between services and broker: this side's context, and what a failed handshake means in a sentence."""

import contextlib
import os
import ssl
import tempfile
from pathlib import Path

from events.errors import Misconfigured
from runtime.broker.credentials import Credentials

EXPIRED, NOT_YET_VALID = 10, 9
OTHER_HOST = (62, 64)
UNKNOWN_AUTHORITY = (18, 19, 20, 21)
"""OpenSSL's numbers of what can be wrong with a certificate."""
_OWN_REFUSED = ("ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE", "TLSV13_ALERT_CERTIFICATE")
"""What the broker says where it does not take this side's certificate."""


def client_context(credentials: Credentials) -> ssl.SSLContext | None:
    """The context by which this side checks the broker and shows itself; None where the address is no tls://.

    Without an authority of its own it trusts those of the system. Raises `Misconfigured` for certificates that cannot
    be read.
    """
    if not credentials.url.startswith("tls://"):
        return None
    try:
        context = ssl.create_default_context(cadata=credentials.ca or None)
        if credentials.certificate:
            load_chain(context, credentials.certificate, credentials.key)
    except ssl.SSLError as wrong:
        raise Misconfigured(
            f"The certificates of {credentials.user} in {credentials.bundle or 'its credentials'} cannot be read "
            f"({wrong.reason or wrong}): copy the file again, as it was made."
        ) from wrong
    return context


def load_chain(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Load a certificate and its key, which OpenSSL takes from files alone."""
    descriptor, name = tempfile.mkstemp(prefix="evolog-")  # its owner's alone
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{certificate}\n{key}\n")
        context.load_cert_chain(name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()


def server_hostname(credentials: Credentials, host: str | None) -> str:
    """The host that the broker's certificate must name."""
    return credentials.server_name or host or "localhost"


def handshake_error(credentials: Credentials, wrong: BaseException) -> Misconfigured | None:
    """What a failed handshake means; None where it is something else that went wrong, such as a broker that
    stops, whose connections end in the midst of it.
    """
    if not isinstance(wrong, ssl.SSLError) or isinstance(wrong, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None
    url, where = credentials.url, credentials.bundle or "its credentials"
    if isinstance(wrong, ssl.SSLCertVerificationError):
        if wrong.verify_code == EXPIRED:
            said = "its certificate has expired: give it a new one, and start `evolog up` again there"
        elif wrong.verify_code == NOT_YET_VALID:
            said = "its certificate is not valid yet: set this host's clock, or the broker's"
        elif wrong.verify_code in OTHER_HOST:
            said = "its certificate names another host: reach it by the name that `evolog credentials init` was given"
        elif wrong.verify_code in UNKNOWN_AUTHORITY:
            said = (
                f"its certificate is not signed by the authority in {where}: this is another broker, or its "
                "certificates were made anew; copy the new bundle here"
            )
        else:
            said = f"its certificate does not hold ({wrong.verify_message})"
        return Misconfigured(f"The broker at {url} is not trusted, since {said}.")
    reason = wrong.reason or ""
    if any(word in reason for word in _OWN_REFUSED):
        return Misconfigured(
            f"The broker at {url} does not take the certificate in {where} ({reason.lower().replace('_', ' ')}): it is "
            "another broker's, or has expired; copy a new bundle here (`evolog credentials rotate NAME` on the "
            "broker's host makes one)."
        )
    return Misconfigured(
        f"What listens at {url} does not speak TLS from its first byte ({reason.lower().replace('_', ' ') or wrong}): "
        "start evolog there with `evolog up --listen HOST:PORT`, or set `handshake_first: true` in its tls block."
    )
