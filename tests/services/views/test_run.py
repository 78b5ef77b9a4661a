"""What a run and an ablation look like on a terminal."""

from typing import Any

import msgspec
import pytest

from events.gold import GoldFailed, GoldScored, PoliciesCompared
from replay.best_answer import BestAnswer
from replay.report import Generation, Report, Spent, cell_label
from replay.votes import DevVote
from services.views.progress import stdout
from services.views.run import (
    ablation_table,
    final_table,
    generation_lines,
    show_report,
    verdict_on_the_model,
    why_failed,
)
from tests.harness.printed import printed


def scored(
    cell: str, rollouts: int = 40, score: float = 0.5, attempts: int = 1, scaffold: str = "", adapter: str = ""
) -> GoldScored:
    return GoldScored(
        cell=cell,
        split="test",
        scaffold=scaffold,
        adapter=adapter,
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


def test_a_candidate_that_failed_says_of_what_and_so_does_its_run() -> None:
    row = Generation(generation=0, standing="rejected", verdict="8 of 8 attempts failed", failure="It\nbroke. " * 99)
    assert generation_lines(row)[-1].startswith("      such as: It\nbroke. It") and len(generation_lines(row)[-1]) < 330
    said = why_failed(Report(run="r", reason="no start", generations=[row]))
    assert said.startswith("no start (8 of 8 attempts failed, such as: It\\nbroke. It") and "evolog sql" in said


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
    assert "0.5000" in text and "±" not in text


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
        "final candidate: the start, as it was",
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
    assert start == "start: the candidate of its owner, base weights"
    (start,) = rows_of(printed(final_table, Report(run="r", agent="rules", cells=cells[:1])))
    assert start == "start: reference scaffold, base weights"


def test_rows_are_named_by_the_scaffold_and_adapter_that_were_played() -> None:
    """A Meta-Agent's run whose start is the reference after all; and what each lever arrived at."""
    start, final = scored("start", scaffold="s0"), scored("final", scaffold="s1", adapter="a1")
    alone = [scored("scaffold", scaffold="s1"), scored("weights", scaffold="s0", adapter="a1")]
    llm = Report(run="r", agent="openai:m", audit="done", cells=[start, *alone, final])
    assert list(rows_of(printed(final_table, llm))) == [
        "start: reference scaffold, base weights",
        "scaffold lever alone: final scaffold, base weights",
        "weights lever alone: the start's scaffold, the final adapter",
        "final candidate: what the levers arrived at together",
    ]
    not_scored = GoldFailed(cell="reference", split="test", reason="x")
    assert cell_label("start", msgspec.structs.replace(llm, cells_failed=[not_scored])).startswith("start: the Meta-")
    assert cell_label("start", msgspec.structs.replace(llm, audit="under way")).startswith("start: the Meta-Agent's")
    forked = msgspec.structs.replace(llm, rebaselined=True, cells=[scored("start", adapter="a0")])
    assert cell_label("start", forked) == "start: the best candidate of the run that it was forked from, its adapter"
    for cell, words in (
        (scored("final", scaffold="s1"), "what the scaffold lever arrived at"),
        (scored("final", scaffold="s0", adapter="a1"), "what the weights lever arrived at"),
        (scored("final", scaffold="s0"), "the start, as it was"),
    ):
        label = cell_label("final", msgspec.structs.replace(llm, cells=[start, cell]))
        assert label == f"final candidate: {words}"
    nested = msgspec.structs.replace(llm, cells=[scored("scaffold", scaffold="s1", adapter="a0")])
    assert cell_label("scaffold", nested) == "scaffold lever alone: final scaffold, the start's adapter"


def test_runs_in_which_something_else_was_played_share_a_name_that_holds_for_both() -> None:
    rules = Report(run="a", agent="rules", cells=[scored("start")])
    llm = Report(run="b", agent="openai:m", cells=[scored("start"), scored("reference")])
    assert cell_label("start", rules) != cell_label("start", llm)
    assert cell_label("start", rules, llm) == "start" and cell_label("start", rules, rules).endswith("base weights")


def test_what_nobody_reported_is_not_0() -> None:
    rows = [
        Generation(generation=0, tokens=70, micro_usd=200_000, standing="accepted", accepted=True),
        Generation(generation=1, unreported=2, unpriced=2, standing="rejected", verdict="no idea"),
        Generation(generation=2, tokens=1000, unreported=1, unpriced=1, micro_usd=160),
    ]
    report = Report(run="r", generations=rows, tokens=1070, micro_usd=200_160, unreported=3, unpriced=3)
    assert "cost: 0 rollouts, tokens not reported, cost not known, 0.0 s" in generation_lines(rows[1])[1]
    assert (
        "1,000 tokens and those of one call that reported none, $0.000160 and one call of unknown cost"
        in (generation_lines(rows[2])[1])
    )
    found = rows_of(printed(show_report, report))
    assert [cells[-3:-1] for cells in found.values()] == [
        ["70", "$0.20"],
        ["not reported", "cost not known"],
        ["1,000, 1 not", "$0.000160 and one call of unknown cost"],
    ]


def test_a_fork_says_what_it_spent_itself_and_what_its_parent_counts_too() -> None:
    """The figures of the toy task: 168 rollouts of the start, which the parent played."""
    rows = [Generation(generation=0, tokens=1424, standing="accepted", inherited=True), Generation(generation=1)]
    rows[1].tokens = 21_770
    inherited = Spent(rollouts=168, tokens=1424)
    report = Report(
        run="f", parent="first up to sequence 9", generations=rows, rollouts=1384, tokens=23_194, inherited=inherited
    )
    report.state = "finished"
    text = printed(show_report, report)
    assert "1,216 rollouts, 21,770 tokens, $0.00, of its own; 168 rollouts, 1,424 tokens, $0.00 inherited" in text
    assert "forked from first up to sequence 9, whose generations up to 0 are above its own" in text


def test_what_belongs_to_no_generation_is_said() -> None:
    rows = [Generation(generation=0, tokens=1000, micro_usd=50_000)]
    report = Report(run="r", state="finished", generations=rows, tokens=1200, micro_usd=250_000)
    assert "of these 200 tokens, $0.20 belong to no generation above" in printed(show_report, report)
    report.tokens, report.micro_usd = 1000, 50_000
    assert "belong to no" not in printed(show_report, report)


def test_the_best_answer_is_said_where_rewards_are_graded_with_gold_where_there_is_some() -> None:
    best = BestAnswer(
        purpose="train", split="train", generation=2, item="i7", attempt=3, trajectory="t", answer="x", reward=1.9
    )
    on_dev = msgspec.structs.replace(best, purpose="dev", split="dev", reward=1.5, by_gold=1.25, generation=1)
    report = Report(run="r", graded=True, best_answers=[best, on_dev])
    text = printed(show_report, report)
    assert "best answer found: reward 1.9000, gold has not scored it; generation 2, train item i7, attempt 3" in text
    assert "best answer to dev: reward 1.5000, gold 1.2500; generation 1, dev item i7, attempt 3" in text
    assert "best answer" not in printed(show_report, msgspec.structs.replace(report, graded=False))
    missing = msgspec.structs.replace(report, best_answers=[], best_answers_missing="since there is no archive")
    assert "best answer found: not known, since there is no archive" in printed(show_report, missing)


def test_an_interval_of_width_0_is_none() -> None:
    """Copies of one item that all earn .5 say nothing of other items."""
    row = Generation(generation=0, score=0.5, low=0.5, high=0.5, standing="accepted", accepted=True)
    assert "dev 0.5000  accepted" in generation_lines(row)[0]
    cell = msgspec.structs.replace(scored("final"), low=0.5, high=0.5)
    text = printed(show_report, Report(run="r", generations=[row], cells=[cell]))
    assert "[" not in text and "95 % -: each item has the same reward" in text
    assert "95 % -" not in printed(show_report, Report(run="r", generations=[row], cells=[scored("final")]))


def test_show_says_how_far_a_run_is_and_why_it_ended() -> None:
    def lines(**fields: Any) -> list[str]:
        return printed(show_report, Report(run="r", task="toy", **fields)).splitlines()[:2]

    assert lines(state="running", score=0.5) == ["r: toy, seed 0: running", "best so far: dev 0.5000"]
    assert lines(state="paused", reason="look")[1] == "paused: look; `evolog resume r` lets it go on"
    assert lines(state="finished", audit="under way", reason="all 2 generations are done") == [
        "r: toy, seed 0: finished, audit under way",
        "ended: all 2 generations are done",
    ]
    assert lines(state="failed", audit="done", reason="the first scaffold could not be evaluated")[1].startswith(
        "ended: the first scaffold could not be evaluated; `evolog sql"
    )


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
    assert rows["start, best of 4 to 16 by the verifier: an upper bound, which no user has"][1] == "0.9000"
    assert rows["start asked again by a run (best_of_k): vote"] == ["0.3000 ± 1.2706", "-", "600", "2"]
    assert rows["start asked again by a run (best_of_k): best on train"] == ["0.3000", "-", "600", "2"]
    assert rows["both levers"] == ["-", "0.3000 ± 1.2706", "680", "2"]
    assert rows["scaffold only"] == ["-", "0.3000", "3", "2"]
    assert "a: The run's rollouts would have bought 17 attempts" in text and "b: The run's" in text
