"""The vote among views, by hand."""

from tasks.voting import PLAIN, elect


def test_kinds_vote_and_not_views() -> None:
    # 7 has five answers of one kind, 9 one of each of two kinds: two kinds nominate 9, one nominates 7.
    assert elect([("order", "7")] * 5 + [("negated", "9"), (PLAIN, "9")]) == "9"


def test_a_kind_nominates_three_at_most() -> None:
    # The kind order (a 3, b 2, c 2, d 1) nominates a, b and c. So d has negated's vote alone, and a has more answers.
    order = [("order", letter) for letter in "aaabbccd"]
    assert elect([*order, ("negated", "d")]) == "a"
    assert elect([*order, ("negated", "c")]) == "c"


def test_a_tie_goes_to_the_plain_answer_then_to_more_answers_then_to_the_first() -> None:
    assert elect([("order", "1"), ("order", "1"), (PLAIN, "2")]) == "2"
    assert elect([("order", "1"), ("order", "1"), ("negated", "2")]) == "1"
    assert elect([("order", "3"), ("negated", "2")]) == "3"


def test_what_cannot_be_read_has_no_vote() -> None:
    assert elect([(PLAIN, None), ("order", None), ("order", "4")]) == "4"
    assert elect([(PLAIN, None)]) is None
    assert elect([]) is None
