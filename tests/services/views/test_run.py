"""What a run and an ablation look like on a terminal."""

import pytest

from events.gold import GoldScored, PoliciesCompared
from replay.report import Generation, Report
from services.views.progress import stdout
from services.views.run import ablation_table, final_table, show_report, verdict_on_the_model
from tests.harness.printed import printed


def scored(cell: str, rollouts: int = 40, score: float = 0.5) -> GoldScored:
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
    )


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
