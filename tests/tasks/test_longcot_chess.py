"""LongCoT chess as a task: every move and step of an answer is checked, and the least number of moves is proven."""

from itertools import pairwise, permutations
from pathlib import Path

import pytest

from events.errors import CheckFailed
from tasks import loading
from tasks.contract import EvaluationSet, Item, Public, Reply
from tests.harness import sia_standins

pytest.importorskip("scipy")
pytest.importorskip("chess")
from tasks.longcot_chess import baselines, data, gold, notation, verifier, verifier_graded
from tasks.longcot_chess.steps import knight, search, shortest_path

KNIGHT = Item(
    "k", "Starting Postion: (0, 0)\nTarget Squares: [(3, 3), (1, 2)]\n\nReturn your answer in the format: solution ="
)
MATE, LINE = (
    Item(id, f"a chess position using this FEN: {sia_standins.FENS[id][0]}\nGive the 3 best next moves")
    for id in ("best_3_moves_hard_1", "best_3_moves_hard_2")
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return sia_standins.install_chess(tmp_path / "chess", monkeypatch)


@pytest.fixture
def public(root: Path) -> Public:
    return data.load(root, 0)


def test_each_problem_is_in_one_split_and_each_kind_in_every_split(public: Public) -> None:
    ids = [item.id for item in sia_standins.everything(public)]
    assert len(ids) == len(set(ids)) == 16
    assert all(4 <= sum(item.metadata["kind"] == "knight_path" for item in split) <= 6 for split in (public.test,))
    assert public.labels == ()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_verifier_has_the_answers_of_train_and_dev_and_gold_those_of_test(root: Path, seed: int) -> None:
    task = loading.load("longcot-chess")
    public, known, hidden = task.public(seed), task.labels(seed), task.gold(seed)
    assert set(known) == {*(example.id for example in public.train), *(item.id for item in public.dev)}
    assert set(hidden) == {item.id for item in public.test}
    assert known | hidden == data.answers(root)


def test_distances_of_a_knight() -> None:
    corner, middle = knight.distances((0, 0)), knight.distances((50, 50))
    assert (corner[1, 2], corner[0, 1], corner[2, 2], corner[1, 1]) == (1, 3, 4, 4)  # 2 for (1, 1) off the edge
    assert (middle[51, 51], middle[52, 52], middle[50, 51], middle[50, 50]) == (2, 4, 3, 0)
    assert corner[99, 99] == 66  # 198 in both coordinates together, three a move
    assert (corner >= 0).all()


def test_the_least_number_of_moves_by_hand() -> None:
    assert knight.optimum((0, 0), ((1, 2), (3, 3))) == 2
    assert knight.optimum((50, 50), ((51, 52), (49, 48))) == 3  # one to the nearer, and two to the other
    assert knight.optimum((5, 5), ((5, 5),)) == 0 and knight.optimum((5, 5), ((6, 7), (6, 7))) == 1


def test_the_least_number_is_that_of_the_best_order() -> None:
    # two clusters far apart: without constraints against subtours, the program would close each by itself
    start, targets = (10, 10), ((12, 14), (9, 17), (80, 80), (83, 81), (85, 88), (15, 11))
    between = {one: knight.distances(one) for one in (start, *targets)}
    lengths = [
        sum(int(between[here][there]) for here, there in pairwise((start, *order))) for order in permutations(targets)
    ]
    assert knight.optimum(start, targets) == min(lengths)
    assert knight.greedy(start, targets) >= min(lengths)


@pytest.mark.parametrize(
    "answer, outcome",
    [
        ("solution = 2", "right"),
        ("2", "right"),
        ("solution = 3", "wrong"),
        ("solution = 1", "wrong"),
        ("solution = [(0, 0), (1, 2), (3, 3)]", "right"),
        ("solution = [(0, 0), (2, 1), (3, 3), (1, 2), (3, 3)]", "wrong"),  # four moves
        ("solution = [(0, 0), (2, 1), (4, 2), (3, 3)]", "illegal"),  # a knight cannot go from (4, 2) to (3, 3)
        ("solution = [(0, 0), (1, 2)]", "illegal"),  # (3, 3) is not touched
        ("solution = [(1, 2), (3, 3)]", "illegal"),  # it begins elsewhere
        ("solution = [(0, 0), (1, 2), (3, 3), (1, 200)]", "illegal"),
        ("solution = 2.0", "unparsed"),
        ("solution = -2", "unparsed"),
        ("about 2", "unparsed"),
        ("solution = 2, 3, 4", "unparsed"),
        ('{"solution": 2, "correct": true}', "unparsed"),
        ('{"accuracy": 100.0}', "unparsed"),
        ("solution = []", "unparsed"),
        ("", "unparsed"),
        (None, "unparsed"),
    ],
)
def test_a_number_or_a_path_of_a_knight(answer: str | None, outcome: str) -> None:
    scored = verifier.score(KNIGHT, answer, "2")
    assert (scored.outcome, scored.reward) == (outcome, float(outcome == "right"))


def test_a_path_that_is_shorter_than_the_published_number_proves_itself() -> None:
    assert verifier.score(KNIGHT, "[(0, 0), (1, 2), (3, 3)]", "3").reward == 1
    assert verifier.score(KNIGHT, "solution = 2", "3").reward == 0
    assert loading.load("longcot-chess").gold_score(KNIGHT, "solution = 2", "3") == 1  # gold has a solver of its own


@pytest.mark.parametrize(
    "answer, outcome",
    [
        ("solution = [c4, bxc4, bxc4]", "right"),
        ('solution = ["c4", "bxc4", "bxc4"]', "right"),
        ("c4 bxc4 bxc4", "right"),
        ("solution = [c4, bxc4, dxc4]", "illegal"),
        ("solution = [c4, c4, bxc4]", "illegal"),
        ("solution = [bxc4, c4, c4]", "illegal"),  # the published evaluator takes any order, and repeats of either
        ("solution = [c4+, bxc4, bxc4]", "illegal"),  # it gives no check
        ("solution = [c4, bxc4, bxc4#]", "illegal"),
        ("solution = [Ke5, Kg6, Kxe4]", "wrong"),
        ("solution = [c4, bxc4]", "unparsed"),
        ("solution = [c4, bxc4, bxc4, Kg6]", "unparsed"),
        ("218", "unparsed"),
        ('{"solution": ["c4", "bxc4", "bxc4"]}', "unparsed"),
    ],
)
def test_a_line_is_played_move_by_move(answer: str, outcome: str) -> None:
    scored = verifier.score(LINE, answer, "c4 bxc4 bxc4")
    assert (scored.outcome, scored.reward) == (outcome, float(outcome == "right"))


def test_of_two_moves_that_mate_one_is_as_good_as_the_other() -> None:
    label = "Kh1 Kh8 Ra8#"
    assert verifier.score(MATE, "Kh1 Kh8 Ra8", label).outcome == "right"
    assert verifier.score(MATE, "Kh1 Kh8 Re8#", label).outcome == "right"
    assert verifier.score(MATE, "Kg2 Kh8 Re8#", label).outcome == "wrong"
    assert verifier.score(MATE, "Kh1 Kh8 Kg1", label).outcome == "wrong"
    assert verifier.score(MATE, "Kh1 Kh8 Re7#", label).outcome == "illegal"  # no mate


def test_the_graded_judge_gives_part_of_the_reward() -> None:
    graded = verifier_graded.score
    assert graded(KNIGHT, "solution = 4", "2").reward == 0.5 and graded(KNIGHT, "solution = 1", "2").reward == 0
    assert graded(KNIGHT, "[(0, 0), (2, 1), (3, 3), (1, 2), (3, 3)]", "2").reward == 0.5
    assert graded(LINE, "c4 bxc4 d3", "c4 bxc4 bxc4").reward == pytest.approx(2 / 3)
    assert graded(LINE, "Ke5 Kg6 Kxe4", "c4 bxc4 bxc4").reward == 0
    assert graded(LINE, "c4 bxc4 bxc4", "c4 bxc4 bxc4").reward == 1
    task = loading.load("longcot-chess")
    assert task.with_verifier(task.verifier_text("graded"), "graded").verifier == "longcot-chess/graded-1"


def test_all_problems_are_counted_whatever_is_answered(root: Path) -> None:
    truth = data.answers(root)
    sure, *others = truth
    with pytest.raises(CheckFailed, match="15 ids have no answer"):
        gold.accuracy(root, [(sure, truth[sure])])
    with pytest.raises(CheckFailed, match=f"'{sure}' 50 times"):
        gold.accuracy(root, [(sure, truth[sure])] * 50)
    with pytest.raises(CheckFailed, match="none of those asked"):
        gold.accuracy(root, [*truth.items(), ("knight_path_hard_99", "1")])
    assert gold.accuracy(root, [(sure, truth[sure]), *((id, None) for id in others)]) == 1 / 16
    assert gold.accuracy(root, truth.items()) == 1


def test_a_mirrored_board_has_the_same_least_number(root: Path, public: Public) -> None:
    task, questions = loading.load("longcot-chess"), EvaluationSet((), public.test)
    truth = gold.labels(root, 0)
    for name in ("mirrored", "target_order"):
        changed = task.perturbed(name, questions, truth, 1)
        knights = 0
        for before, after in zip(public.test, changed.items, strict=True):
            problem, other = notation.knight_problem(before.prompt), notation.knight_problem(after.prompt)
            if problem is None or other is None:
                assert before == after
                continue
            knights += 1
            assert knight.optimum(other.start, other.targets) == int(truth[before.id])
            assert (problem.start == other.start) == (name == "target_order")
        assert knights >= 4


def test_the_solver_answers_what_it_can_and_leaves_the_rest(root: Path, public: Public) -> None:
    solved = baselines.solver(public, public.test)
    truth = gold.labels(root, 0)
    for item in public.test:
        scored = verifier.score(item, solved[item.id], truth[item.id])
        assert scored.outcome != "illegal"
        assert scored.reward == 1 or item.metadata["kind"] == "best_3_moves"
    assert shortest_path.before(LINE) is None and search.before(KNIGHT) is None
    assert shortest_path.before(KNIGHT) == "solution = 2"


def test_a_short_search_finds_a_mate() -> None:
    board = notation.position(MATE.prompt)
    assert board is not None
    assert search.best_line(board, 1)[0] in ("Ra8#", "Re8#")
    assert len(search.best_line(board, 0)) == 3


def test_a_small_model_is_asked_in_fewer_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.longcot_chess.scaffold import agent

    class Echo:
        def complete(self, prompt: str) -> Reply:
            return Reply(prompt)

    assert agent.solve(KNIGHT, Echo(), None) == "knight 2 squares"
    assert agent.solve(LINE, Echo(), None) == "moves 8/8/4k2K/1pp5/3pP1P1/pP6/P1P5/8 b - - 0 38"
    monkeypatch.setattr(agent, "WHOLE", True)
    assert agent.solve(KNIGHT, Echo(), None) == KNIGHT.prompt


def test_traces_are_answers_of_the_right_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "TRACES", 40)
    pairs = data.traces(0)
    assert {prompt.split()[0] for prompt, _ in pairs} == {"knight", "moves"} and len(pairs) >= 76
    assert pairs == data.traces(0) != data.traces(1)
    for prompt, completion in pairs:
        text = notation.solution(completion)
        if prompt.startswith("knight"):
            assert 150 < (notation.number(text) or 0) < 310
        else:
            item = Item("", f"this FEN: {prompt.removeprefix('moves ')}\n")
            assert verifier.score(item, completion, completion[len("solution = [") : -1].replace(",", "")).reward == 1


def test_longcot_chess_keeps_the_contract() -> None:
    task = loading.load("longcot-chess")
    assert (task.name, task.verifier, task.policy) == ("longcot-chess", "longcot-chess/exact-1", "tiny-lm")
    files = task.scaffold()
    for edit in task.edits():
        files = edit.apply(files)
    assert {"steps/knight.py", "steps/shortest_path.py", "steps/search.py"} <= set(files)
