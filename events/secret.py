"""Values that must never be written down: `Secret` has no encoder, so that a fact holding one cannot be made into bytes."""


class SecretFound(ValueError):
    """A known secret was about to be appended to a log."""


class Secret:
    """A password or key; only `reveal()` gives it out, and printing or encoding it does not."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"


class Scanner:
    """Looks for known secrets in bytes that are about to be appended."""

    def __init__(self, secrets: list[Secret]) -> None:
        self.secrets = secrets
        self._known = [secret.reveal().encode() for secret in secrets if len(secret.reveal()) >= 8]

    def check(self, payload: bytes) -> None:
        """Raise `SecretFound` if the payload holds one of the known secrets as it is."""
        for known in self._known:
            if known in payload:
                raise SecretFound("an event held a known secret and was not appended; find where it came from before going on")
