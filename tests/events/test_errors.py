"""What is the host's own fault, and so no outcome of any work."""

import errno
import os
from typing import Any

import pytest

from events.errors import (
    CheckFailed,
    Misconfigured,
    NotFound,
    NotHere,
    TryAgain,
    Unavailable,
    hosts_own,
    raise_if_hosts,
)

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
OVER_QUOTA = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
SAFETENSORS = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def wrapped(cause: Exception) -> CheckFailed:
    """What came of an exception."""
    try:
        raise CheckFailed("The state is damaged.") from cause
    except CheckFailed as wrong:
        return wrong


@pytest.mark.parametrize("wrong", [FULL, OVER_QUOTA, wrapped(FULL)])
def test_a_full_disk_is_tried_again(wrong: Exception) -> None:
    with pytest.raises(TryAgain, match="No room left"):
        raise_if_hosts(wrong)


def test_a_full_disk_is_known_by_a_librarys_words_only_where_no_candidate_can_say_them() -> None:
    raise_if_hosts(SAFETENSORS)
    with pytest.raises(TryAgain, match="os error 28"):
        raise_if_hosts(SAFETENSORS, by_words=True)


def test_words_of_an_answer_about_a_full_disk_are_the_answers() -> None:
    raise_if_hosts(ValueError(f"invalid literal for int(): {FULL}"))


@pytest.mark.parametrize("wrong", [NotHere("no blob"), Unavailable("no broker"), TryAgain("later")])
def test_what_is_the_hosts_own_travels_on(wrong: Exception) -> None:
    with pytest.raises(type(wrong)):
        raise_if_hosts(wrong)


@pytest.mark.parametrize("wrong", [NotFound("no task"), Misconfigured("no name"), OSError(errno.EIO, "I/O error")])
def test_anything_else_is_somebody_elses(wrong: Exception) -> None:
    raise_if_hosts(wrong)


@pytest.mark.parametrize("error", [Misconfigured("cannot be imported"), CheckFailed("other data"), NotFound("no data")])
def test_what_a_host_cannot_load_keeps_its_words_and_its_code(error: Any) -> None:
    with pytest.raises(NotHere, match=str(error)) as lacking, hosts_own():
        raise error
    assert lacking.value.code == error.code
