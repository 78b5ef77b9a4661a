"""A budget as a user writes it."""

import pytest

from events.errors import UsageError
from runtime.run.budget import parse, with_rollouts


@pytest.mark.parametrize(
    "budget",
    ["x", "rollouts=", "rollouts=-1", "rollouts=1,rollouts=2", "euro=3", "tokens=1G", "time=30", "time=1s,time=2s"],
)
def test_a_budget_that_is_none_is_named(budget: str) -> None:
    with pytest.raises(UsageError, match=r"is no budget; write it as in --budget rollouts=100k"):
        parse(budget)


@pytest.mark.parametrize(
    "budget", [f"rollouts={'9' * 400}", "tokens=99999999999999999", "usd=1000000001", "time=0s", "time=9999999h"]
)
def test_a_budget_that_no_event_can_hold_is_refused(budget: str) -> None:
    with pytest.raises(UsageError, match=rf"leave {budget.split('=')[0]} out of --budget for no limit"):
        parse(budget)


@pytest.mark.parametrize(
    ("budget", "seconds"), [("time=30m", 1800.0), ("rollouts=5,time=1.5h", 5400.0), ("time=9s", 9.0)]
)
def test_a_limit_of_time_has_a_unit(budget: str, seconds: float) -> None:
    assert parse(budget).seconds == seconds


@pytest.mark.parametrize("budget", ["", "rollouts=5", " rollouts=2k , "])
def test_a_limit_on_rollouts_takes_the_place_of_another(budget: str) -> None:
    assert with_rollouts(budget, 9) == "rollouts=9"
    assert parse(with_rollouts(f"{budget},usd=2,time=9s", 9)) == parse("rollouts=9,usd=2,time=9s")
