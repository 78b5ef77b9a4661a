"""What a run and an ablation look like on a terminal."""

import msgspec
import pytest

from events.gold import GoldFailed, GoldScored, PoliciesCompared
from replay.report import Generation, Report
from replay.votes import DevVote
from services.views.progress import stdout
from services.views.run import ablation_table, final_table, show_report, verdict_on_the_model
from tests.harness.printed import printed


def scored(cell: str, rollouts: int = 40, score: float = 0.5, attempts: int = 1) -> GoldScored:
    return GoldScored(
        cell=cell,
        split="test",
        scaffold="",
        adapter="",
        policy="",
        score=score,
        low=0.0,
        high=1.0,
        items=40,
        failed=0,
        rollouts=rollouts,
        blob="",
        attempts=attempts,
    )


def rows_of(text: str) -> dict[str, list[str]]:
    """The cells of a table's rows by what they are about; a row that is wrapped has its first line's."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    return {name: cells for name, *cells in rows}


def test_what_a_model_wrote_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    row = Generation(generation=1, lever="scaffold", change="[/b] [red]", reason="[/x]", accepted=True)
    final_table(stdout(), Report(run="r", reason="[/oops]", generations=[row]))
    assert "[/oops]" in capsys.readouterr().out


def test_rollouts_stand_beside_every_score() -> None:
    """Accepted: the start (100), a scaffold edit (20), an update (3); rejected: an edit between (7), another at the
    end (1000).
    """
    told = [
        ("start", 100, True),
        ("scaffold", 7, False),
        ("scaffold", 20, True),
        ("weights", 3, True),
        ("scaffold", 1000, False),
    ]
    rows = [
        Generation(generation=n, lever=lever, rollouts=rollouts, accepted=kept)
        for n, (lever, rollouts, kept) in enumerate(told)
    ]
    cells = [scored(cell) for cell in ("start", "scaffold", "weights", "final", "uniform_policy")] + [
        scored("baseline:svc", 0)
    ]
    text = printed(final_table, Report(run="r", generations=rows, cells=cells, rollouts=1130))
    found = {
        line.split("│")[1].split(":")[0].strip(): line.split("│")[-2].strip()
        for line in text.splitlines()
        if line.startswith("│")
    }
    assert list(found.values()) == ["100", "127", "103", "1,130", "127", "-"], text
    assert "are 200 more" in text


@pytest.mark.parametrize(
    ("wins", "losses", "p", "words"),
    [
        (30, 5, 0.001, "The model against a uniformly"),
        (5, 30, 0.001, "The model made it worse."),
        (6, 5, 0.9, "policy in the same scaffold ties"),
    ],
)
def test_what_is_said_of_the_model(wins: int, losses: int, p: float, words: str) -> None:
    compared = [PoliciesCompared(split="test", wins=wins, losses=losses, p_value=p)]
    assert words in verdict_on_the_model(Report(run="r", compared=compared))


def test_a_lever_that_came_to_nothing_has_no_score() -> None:
    worked = Report(run="a", levers=("scaffold",), cells=[scored("final")], score=0.5, rollouts=7)
    text = printed(ablation_table, [worked, Report(run="b", levers=("weights",), rollouts=9)])
    (row,) = (line for line in text.splitlines() if "weights only" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["weights only", "-", "-", "9", "0"]
    assert "0.5000 ± 0.0000" in text


def test_what_training_found_wrong_with_its_samples_is_said_in_a_sentence() -> None:
    rows = [Generation(generation=0), Generation(generation=1, lever="weights", masked_tokens=3, repeated=2_000)]
    text = printed(show_report, Report(run="r", generations=rows))
    assert "generation 1: 3 tokens were left out" in text and "generation 1: 2,000 completions repeat another" in text
    assert "generation 0:" not in text


VOTE, BEST = "start_vote_of_k", "start_best_of_k"


def test_the_start_asked_again_is_named_by_the_k_that_was_played() -> None:
    """The run's 1,000 rollouts would be 25 attempts at each of 40 items."""
    cells = [scored("final"), scored(BEST, 0, 0.9, 16), scored(VOTE, 640, 0.4, 16), scored("start")]
    text = printed(final_table, Report(run="r", cells=cells, rollouts=1000))
    rows = rows_of(text)
    assert list(rows) == [
        "start: reference scaffold, base weights",
        "start, vote of 16",
        "start, best of 16 by the verifier: an upper bound, which no user has",
        "final candidate: what the levers arrived at together",
    ]
    assert [cells[2] + " " + cells[4] for cells in rows.values()][1:3] == ["0.4000 640", "0.9000 640"]
    assert "are 720 more" in text
    assert "would have bought 25 attempts of the start at each test item; 16 were played." in text
    assert "would have bought" not in printed(final_table, Report(run="r", cells=cells, rollouts=679))


def test_a_table_without_the_start_asked_again_says_why() -> None:
    failed = GoldFailed(cell="start_of_k", split="test", reason="the verifier judges whole submissions")
    text = printed(final_table, Report(run="r", cells=[scored("start")], cells_failed=[failed]))
    assert "start, vote and best of k on test could not be scored: the verifier judges whole submissions" in text


def test_a_start_is_named_by_who_wrote_it() -> None:
    cells = [scored("start"), scored("reference")]
    (reference, start) = rows_of(printed(final_table, Report(run="r", agent="anthropic:m", cells=cells)))
    assert reference == "reference scaffold, base weights: no part of the run"
    assert start == "start: the Meta-Agent's scaffold, base weights"
    (start,) = rows_of(printed(final_table, Report(run="r", agent="rules", owner="o", cells=cells[:1])))
    assert start == "start: the candidate of its owner"
    (start,) = rows_of(printed(final_table, Report(run="r", agent="rules", cells=cells[:1])))
    assert start == "start: reference scaffold, base weights"


def test_an_ablation_has_the_start_asked_again() -> None:
    """Two seeds, whose rollouts bought 4 and 16 attempts; votes of .2 and .4 have a t interval of 12.706 * .1."""
    reports = []
    for name, k, score in (("a", 4, 0.2), ("b", 16, 0.4)):
        cells = [scored("start"), scored(VOTE, 40 * k, score, k), scored(BEST, 0, 0.9, k), scored("final", 40, score)]
        alone = [scored("start"), scored(VOTE, 40, 0.7, 1), scored("final", 40, 0.3)]
        vote = DevVote(score=score, low=0.0, high=1.0, items=40, attempts=80)
        both, again = ("scaffold", "weights"), Report(run=name, levers=("scaffold", "weights"), strategy="best_of_k")
        reports += [
            Report(run=name, levers=("scaffold",), cells=alone, rollouts=3, score=0.3),
            Report(run=name, levers=both, cells=cells, rollouts=680, score=score),
            msgspec.structs.replace(again, cells=cells, rollouts=600, score=0.3, vote=vote),
        ]
    text = printed(ablation_table, reports)
    rows = rows_of(text)
    assert rows["start, vote of 4 to 16"] == ["-", "0.3000 ± 1.2706", "400", "2"]
    assert rows["start, best of 4 to 16 by the verifier: an upper bound, which no user has"][1] == "0.9000 ± 0.0000"
    assert rows["start asked again by a run (best_of_k): vote"] == ["0.3000 ± 1.2706", "-", "600", "2"]
    assert rows["start asked again by a run (best_of_k): best on train"] == ["0.3000 ± 0.0000", "-", "600", "2"]
    assert rows["both levers"] == ["-", "0.3000 ± 1.2706", "680", "2"]
    assert rows["scaffold only"] == ["-", "0.3000 ± 0.0000", "3", "2"]
    assert "a: The run's rollouts would have bought 17 attempts" in text and "b: The run's" in text
