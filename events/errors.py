"""The errors that a user can cause: each is one sentence for the terminal and one exit code for the shell.

Some are the host's fault and not the work's: no room on a disk, a blob that is not here, a broker that is away. Nothing
is recorded of those; the work is done again.
"""

import contextlib
import errno
import os
from collections.abc import Iterator

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What the operating system says where a disk, or a user's share of it, is full."""


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


class NotHere(NotFound):
    """This host lacks what it should have, such as a blob, a model, or a task's data. It may be there later."""


class RunHalted(NotHere):
    """A run waits for the operator to put something right and to resume it; for however long that takes."""

    code = 78


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


def raise_if_hosts(wrong: BaseException, *, by_words: bool = False) -> None:
    """Raise what an exception is of the host's own: `NotHere`, `HostUnfit`, `Unavailable` or `TryAgain` as they are,
    and `TryAgain` for a full disk; else do nothing.

    Whoever makes an outcome of any exception calls this first. `by_words` knows a full disk by an exception's text too,
    since libraries in C++ and Rust lose the number; it is for exceptions whose text no candidate can choose.
    """
    if isinstance(wrong, NotHere | HostUnfit | Unavailable | TryAgain):
        raise wrong
    if says_disk_is_full(wrong) if by_words else disk_is_full(wrong):
        raise no_room(str(wrong) or type(wrong).__name__) from wrong


@contextlib.contextmanager
def hosts_own() -> Iterator[None]:
    """Whatever user's error is raised inside is the host's own: raise it as `NotHere`, with its code, unless it is one
    of those that `raise_if_hosts` raises.
    """
    try:
        yield
    except UserError as wrong:
        raise_if_hosts(wrong)
        raise NotHere(str(wrong), code=wrong.code) from wrong


def no_room(where: str) -> TryAgain:
    """The error of a full disk."""
    return TryAgain(f"No room left on a disk ({where}); free disk space and the run goes on by itself.")


def disk_is_full(wrong: BaseException) -> bool:
    """Whether an exception, or one that it came of, is that of a full disk."""
    return any(isinstance(one, OSError) and one.errno in NO_ROOM for one in _with_causes(wrong))


def says_disk_is_full(wrong: BaseException) -> bool:
    """Whether an exception is that of a full disk, by its text too."""
    words = [os.strerror(number) for number in NO_ROOM]
    return disk_is_full(wrong) or any(word in str(one) for one in _with_causes(wrong) for word in words)


def _with_causes(wrong: BaseException | None) -> Iterator[BaseException]:
    while wrong is not None:
        yield wrong
        wrong = wrong.__cause__ or (None if wrong.__suppress_context__ else wrong.__context__)
