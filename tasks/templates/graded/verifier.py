"""The reward that a run learns from: 1 for the best answer, and the less the further off."""

import re

from tasks.contract import Scored

VERSION = "closeness-1"
OUTCOMES = {
    "best": "both digits are the best ones",
    "near": "the answer could be better",
    "unparsed": "the answer is no two digits",
}


def parse(text: str | None) -> tuple[int, int] | None:
    """The two digits of an answer; None for another text."""
    match = re.fullmatch(r"([0-9]) ([0-9])", text or "")
    return (int(match[1]), int(match[2])) if match else None


def score(answer: str | None, label: str) -> Scored:
    """1 less the mean distance over 9; nothing for what is no two digits."""
    given, best = parse(answer), parse(label)
    assert best
    if given is None:
        return Scored(0.0, "unparsed", "Two digits are asked for, such as 3 7.")
    water, feed = given[0] - best[0], given[1] - best[1]
    reward = 1 - (abs(water) + abs(feed)) / 18
    return Scored(reward, "best" if given == best else "near", f"water {water:+d}, feed {feed:+d} from the best")
