"""The errors that a user can cause: each is one sentence for the terminal and one exit code for the shell."""


class UserError(Exception):
    """An error whose message says what happened, what was expected and what to do next; the command line prints it and
    exits with `code`.

    The codes follow sysexits where there is one: 1 failed, 2 usage, 3 check failed, 4 not found, 5 budget exhausted,
    69 broker unavailable, 75 try again, 77 permission, 78 configuration, 124 timed out.
    """

    code = 1

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class UsageError(UserError):
    """The command line or a setting asks for something that does not exist."""

    code = 2


class CheckFailed(UserError):
    """Something recorded does not agree with what was found: a digest, a sequence, a hash chain."""

    code = 3


class NotFound(UserError):
    """A run, task, file or event that was named is not there."""

    code = 4


class Unavailable(UserError):
    """The broker cannot be reached."""

    code = 69


class TryAgain(UserError):
    """A resource is held by another process, or not ready yet."""

    code = 75


class Misconfigured(UserError):
    """The installation or a task folder does not keep its contract."""

    code = 78


class HostUnfit(Misconfigured):
    """This host lacks what work needs, such as a sandbox: the work goes back, and nothing it is about has failed."""


def why(wrong: Exception) -> str:
    """What is recorded of an exception: a user's error in its own words, any other with its type."""
    return str(wrong) if isinstance(wrong, UserError) else f"{type(wrong).__name__}: {wrong}"
