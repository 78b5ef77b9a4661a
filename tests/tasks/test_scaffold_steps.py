"""The steps that edits add to a LawBench scaffold, and the folders that the edits produce."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from events.errors import Misconfigured
from tasks import loading
from tasks.contract import Data, Item, Public, visible_train
from tasks.lawbench import catalogue, data
from tests.harness import lawbench_standin

pytest.importorskip("scipy")
from tasks.lawbench.steps import kernel, retrieval_vote, ridge_candidates, tolerant_parser

START = loading.load("lawbench").scaffold()
EDITS = {edit.name: edit for edit in catalogue.EDITS}


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Public:
    return data.load(lawbench_standin.install(tmp_path / "lawbench", monkeypatch), 0)


def test_the_ridge_solves_its_normal_equations(public: Public) -> None:
    import numpy as np

    fit = kernel.Kernel([e.prompt for e in public.train], [e.label or "" for e in public.train])
    x = np.stack([fit.scores(e.prompt)[1] for e in public.train])  # the Gram matrix, row by row
    truth = np.eye(len(fit.names))[fit.answers]
    expected = x @ np.linalg.solve(x + kernel.LAMBDA * np.eye(len(x)), truth)
    assert np.allclose(np.stack([fit.scores(e.prompt)[0] for e in public.train]), expected, atol=1e-4)
    assert np.allclose(np.diag(x), 1, atol=1e-5)


@pytest.mark.parametrize("step", [retrieval_vote, ridge_candidates])
def test_steps_put_the_right_label_first_for_most_dev_items(public: Public, tmp_path: Path, step: ModuleType) -> None:
    seen = Data(public.labels, visible_train(public, None))
    truth = data.labels(tmp_path / "lawbench", 0)
    first = [next(iter(step.before(item, seen, {}))) == truth[item.id] for item in public.dev]
    assert sum(first) >= 0.8 * len(first)


def test_votes_offer_neighbours_labels_only_and_ridge_sixteen_at_most(public: Public) -> None:
    seen, item = Data(public.labels, public.train), public.dev[0]
    assert len(retrieval_vote.before(item, seen, {})) <= min(12, len(public.labels))
    offers = ridge_candidates.before(item, seen, {"失火": 1.0})
    assert list(offers.values()) == sorted(offers.values(), reverse=True)
    assert len(offers) == len({e.label for e in public.train})


def test_one_fit_serves_all_threads_and_equal_texts(public: Public) -> None:
    seen = Data(public.labels, public.train)
    with ThreadPoolExecutor(16) as pool:
        fits = set(pool.map(lambda _: id(kernel.kernel(seen)), range(64)))
    assert fits == {id(kernel.kernel(Data(public.labels, tuple(list(public.train)))))}
    assert id(kernel.kernel(Data(public.labels, visible_train(public, 0)))) not in fits


@pytest.mark.parametrize(
    "said, label",
    [
        ("盗窃", "盗窃"),
        ("生产、销售假药罪", "[生产、销售]假药"),
        ("答：【放火】", "放火"),
        ("I do not know", ""),
        ("", ""),
    ],
)
def test_the_tolerant_parser_sees_through_marks(said: str, label: str) -> None:
    assert tolerant_parser.after(said, Data(lawbench_standin.LABELS, ())) == label


def test_the_longest_label_named_is_meant() -> None:
    assert tolerant_parser.after("职务侵占罪", Data(("侵占", "职务侵占"), ())) == "职务侵占"


def test_an_edit_adds_its_files_and_its_step_once() -> None:
    once = EDITS["retrieval_vote"].apply(START)
    both = EDITS["tolerant_parser"].apply(once)
    assert set(both) == {
        "agent.py",
        "steps/__init__.py",
        "steps/kernel.py",
        "steps/retrieval_vote.py",
        "steps/tolerant_parser.py",
    }
    assert 'STEPS: tuple[str, ...] = ("retrieval_vote", "tolerant_parser")' in both["agent.py"]
    assert 'STEPS: tuple[str, ...] = ("retrieval_vote",)' in EDITS["retrieval_vote"].apply(once)["agent.py"]
    assert "STEPS: tuple[str, ...] = ()" in START["agent.py"]


def test_an_edit_of_a_foreign_scaffold_is_refused() -> None:
    with pytest.raises(Misconfigured, match="no line `STEPS"):
        EDITS["retrieval_vote"].apply({"agent.py": "def solve(item, model, data): ..."})


CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import agent
told = json.load(sys.stdin)
class Thing:
    def __init__(self, **k): self.__dict__.update(k)
class Model:
    def complete(self, prompt, choices=(), bias=()):
        self.asked = [list(choices), list(bias)]
        return Thing(text=choices[0] + "罪" if choices else "？")
data = Thing(labels=tuple(told["labels"]), train=[Thing(prompt=p, label=l) for p, l in told["train"]])
model = Model()
said = agent.solve(Thing(id="i", prompt=told["prompt"]), model, data)
print(json.dumps([said, model.asked]))
"""


def play(files: dict[str, str], folder: Path, public: Public, item: Item) -> tuple[str, list[list[object]]]:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    told = json.dumps(
        {"labels": public.labels, "train": [[e.prompt, e.label] for e in public.train], "prompt": item.prompt}
    )
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder)], input=told, capture_output=True, text=True, check=True, cwd=folder
    )
    said, asked = json.loads(done.stdout)
    return said, asked


def test_the_start_asks_with_every_label_allowed(public: Public, tmp_path: Path) -> None:
    assert play(START, tmp_path / "start", public, public.dev[0]) == ("？", [[], []])


def test_an_edited_folder_runs_without_evolog(public: Public, tmp_path: Path) -> None:
    files = dict(START)
    for edit in catalogue.EDITS:
        files = edit.apply(files)
    said, (choices, bias) = play(files, tmp_path / "edited", public, public.dev[0])
    assert said == choices[0]
    assert len(choices) == len(bias) == 6
