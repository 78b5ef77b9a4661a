"""LawBench as a task: its files, its splits, who sees which label; and what a task folder must hold."""

import hashlib
import re
import sys
import zipfile
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from algorithms.statistics import mean_reward
from events.errors import CheckFailed, Misconfigured, NotFound, Unavailable
from tasks import kit, loading
from tasks.contract import Data, EvaluationSet, Example, Item, Public, Reply, visible_train
from tasks.lawbench import baselines, data, gold
from tasks.lawbench.verifier import score
from tests.harness import lawbench_standin
from tests.harness.facts import ANY_ITEM

pytest.importorskip("scipy")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return lawbench_standin.install(tmp_path / "lawbench", monkeypatch)


@pytest.fixture
def public(root: Path) -> Public:
    return data.load(root, 0)


def test_only_train_carries_labels(public: Public) -> None:
    assert "label" not in {field for item in (*public.dev, *public.test) for field in item.__struct_fields__}
    assert all(not item.metadata and not item.files for item in (*public.dev, *public.test))
    assert public.labels == lawbench_standin.LABELS
    assert {example.label for example in public.train} <= set(public.labels)


def test_every_case_is_in_one_split(public: Public) -> None:
    ids = [*(example.id for example in public.train), *(item.id for item in (*public.dev, *public.test))]
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
def test_a_cached_split_that_is_damaged_is_made_again(root: Path, public: Public, damage: bytes | None) -> None:
    file = root / "split-0.json"
    changed = file.read_bytes().replace(b"true", b"false", 1)
    file.write_bytes(changed if damage is None else damage)
    assert data.load(root, 0) == public


def test_the_verifier_reads_the_labelled_cases_and_the_auditor_alone_the_rest(root: Path, public: Public) -> None:
    known, hidden = data.labels(root, 0), gold.labels(root, 0)
    assert set(known) == {example.id for example in public.train} | {item.id for item in public.dev}
    assert set(hidden) == {item.id for item in public.test}
    assert all(known[example.id] == example.label for example in public.train)


def test_a_duplicate_id_a_missing_one_and_an_unknown_one_are_refused(public: Public) -> None:
    answers: list[tuple[str, str | None]] = [(item.id, "盗窃") for item in public.test]
    assert gold.require_exact(reversed(answers), public.test) == dict(answers)
    for wrong, why in (
        (
            answers + [answers[3]] * 2000,
            r"1 ids are answered more than once, such as 'test-3' 2,001 times; expected each of the 12 ids",
        ),
        (answers[1:], "1 ids have no answer, such as 'test-0'"),
        ([*answers[1:], ("test-00", "盗窃")], "1 ids are none of those asked, such as 'test-00'"),
        (answers[2:] + [answers[2]] * 2, "answered more than once"),
    ):
        with pytest.raises(CheckFailed, match=why):
            gold.require_exact(wrong, public.test)


def test_the_subset_leaves_out_what_train_nearly_holds() -> None:
    def items(*texts: str) -> list[Item]:
        return [Item(str(place), text) for place, text in enumerate(texts)]

    train = [Example(text, text, "盗窃", 0, text) for text in ("abcdefghijklmnop", "zyxwvutsrqponmlk")]
    # 12 shingles against 12, of which 12, 11 of 13, 4 of 20 and 3 of 21, and none are shared
    test = items("abcdefghijklmnop", "abcdefghijklmnoq", "zyxwvutsABCDEFGH", "zyxwvutABCDEFGHI", "0123456789012345")
    similar = [{i.prompt[at : at + 5] for at in range(12)} for i in test]
    known = {train[place].prompt[at : at + 5] for place in (0, 1) for at in range(12)}
    assert [len(of & known) for of in similar] == [12, 11, 4, 3, 0]
    assert gold.without_near_duplicates(train, test) == ("2", "3", "4")
    assert gold.without_near_duplicates(train, test, 0.2) == ("3", "4")
    assert gold.without_near_duplicates(train, test, 0.1) == ("4",)


def test_a_near_duplicate_within_test_or_within_train_is_none_between_them(public: Public) -> None:
    assert gold.without_near_duplicates(public.train, public.test) == tuple(item.id for item in public.test)
    copied = [*public.test[:-1], Item("x", public.train[5].prompt + "。"), Item("y", public.test[0].prompt)]
    assert gold.without_near_duplicates(public.train, copied) == tuple(item.id for item in copied if item.id != "x")


CASES = (
    "甲撬门。乙望风！经审理查明，丙销赃；证据充分。",
    "一句而已",
    "其行为构成盗窃罪。",
    "他犯罪后投案。应以××罪追究刑事责任。触犯《中华人民共和国刑法》××之规定；事后退赃",
)
TRUTH = {"test-0": "盗窃", "test-1": "失火", "test-2": "盗窃", "test-3": "失火", "test-4": "失火", "test-5": "放火"}


def asked() -> EvaluationSet:
    texts = (*CASES, "子" * 300 + "丑" * 300, "寅")
    return EvaluationSet(
        ("盗窃", "失火", "放火", "诈骗"), tuple(Item(f"test-{i}", text) for i, text in enumerate(texts))
    )


def changed(name: str, seed: int = 0) -> EvaluationSet:
    return loading.load("lawbench").perturbed(name, asked(), TRUTH, seed)


@pytest.mark.parametrize("name", gold.PERTURBATIONS)
def test_a_perturbation_follows_from_its_seed_and_keeps_ids(
    name: str, root: Path, public: Public, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "default_root", lambda: root)
    given, truth = EvaluationSet(public.labels, public.test), gold.labels(root, 0)
    task = loading.load("lawbench")
    found = task.perturbed(name, given, truth, 3)
    assert found == task.perturbed(name, given, truth, 3)
    ids = [item.id for item in found.items]
    assert ids == [item.id for item in given.items if item.id in ids]
    assert sorted(found.labels) == sorted(given.labels)
    assert gold.PERTURBATIONS[name].summary.endswith(".")


def test_cases_that_stand_in_train_are_left_out(root: Path, public: Public, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "default_root", lambda: root)
    twin = Item("test-twin", public.train[0].prompt)
    found = loading.load("lawbench").perturbed(
        "no_near_duplicates", EvaluationSet(public.labels, (*public.test, twin)), gold.labels(root, 0), 0
    )
    assert twin not in found.items and {item.id for item in found.items} == set(
        gold.without_near_duplicates(public.train, public.test)
    )


def test_shuffled_sentences_are_the_same_sentences() -> None:
    orders = {changed("sentence_shuffle", seed).items[0].prompt for seed in range(20)}
    sentences = ["甲撬门。", "乙望风！", "经审理查明，丙销赃；", "证据充分。"]
    assert len(orders) > 5
    assert all(sorted(re.findall("[^。！；]+[。！；]", text)) == sorted(sentences) for text in orders)
    assert all(changed("sentence_shuffle", seed) == changed("sentence_shuffle", seed) for seed in range(5))
    assert changed("sentence_shuffle").items[1].prompt == "一句而已"
    assert changed("sentence_shuffle").labels == asked().labels


def test_truncation_leaves_an_end() -> None:
    long = [changed(name).items[4].prompt for name in ("first_200", "last_200")]
    assert long == ["子" * 200, "丑" * 200]
    assert changed("first_200").items[0] == asked().items[0]


def test_conclusions_are_the_sentences_that_name_a_charge_or_an_article() -> None:
    prompts = [item.prompt for item in changed("no_conclusions").items]
    assert prompts[3] == "他犯罪后投案。事后退赃"
    assert prompts[:3] == list(CASES[:3]), "a case that is nothing but a conclusion stays"


def test_another_order_of_the_classes_changes_nothing_else() -> None:
    assert len({changed("class_order", seed).labels for seed in range(20)}) > 5
    assert changed("class_order").items == asked().items


def test_common_charges_make_up_their_share(root: Path) -> None:
    chosen = [TRUTH[item.id] for item in changed("common_charges").items]
    assert Counter(chosen)["盗窃"] == 2 and len(chosen) == 3
    assert len({tuple(item.id for item in changed("common_charges", seed).items) for seed in range(20)}) > 1
    many = tuple(Item(str(i), "") for i in range(913))
    truth = {item.id: gold.COMMON[int(item.id) // 5] if int(item.id) < 50 else "失火" for item in many}
    shares = [
        truth[item.id] in gold.COMMON
        for item in gold.PERTURBATIONS["common_charges"].change(EvaluationSet((), many), truth, 0).items
    ]
    assert sum(shares) == 50 and sum(shares) / len(shares) == pytest.approx(gold.COMMON_SHARE, abs=0.005)


def test_uniform_charges_are_as_many_of_each_as_of_the_rarest() -> None:
    assert sorted(TRUTH[item.id] for item in changed("uniform_charges").items) == ["失火", "放火", "盗窃"]


def test_scores() -> None:
    assert score("盗窃", "盗窃") == msgspec.convert({"reward": 1.0, "outcome": "right"}, type(score("", "")))
    assert [score(answer, "盗窃").outcome for answer in ("诈骗", "盗窃罪", "", None)] == [
        "wrong",
        "wrong",
        "unparsed",
        "unparsed",
    ]


def test_looking_up_the_own_answer_in_train_earns_nothing(public: Public) -> None:
    class Silent:
        def complete(self, prompt: str, choices: tuple[str, ...] = (), bias: tuple[float, ...] = ()) -> Reply:
            return Reply("")

    def peek(item: Item, model: Silent, seen: Data) -> str:
        return next((e.label or "" for e in seen.train if e.prompt == item.prompt), model.complete(item.prompt).text)

    def reward(fold_is_hidden: bool) -> float:
        rewards = []
        for e in public.train:
            seen = Data(public.labels, visible_train(public, e.fold if fold_is_hidden else None))
            rewards.append(score(peek(Item(e.id, e.prompt), Silent(), seen), e.label or "").reward)
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
        for file in data.FILES.checksums:
            archive.write(source / file, data.FILES.inside + file)
        archive.writestr("sia/other.py", "")
    with pytest.raises(CheckFailed, match="fetch that very version"):
        data.get(tmp_path / "b", wheel)
    published = msgspec.structs.replace(data.FILES, wheel=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(data, "FILES", published)
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


def test_files_that_are_there_and_whole_are_not_fetched_again(
    root: Path, public: Public, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(package: str, folder: Path, otherwise: str) -> Path:
        raise Unavailable("no network")

    monkeypatch.setattr(kit, "download", download)
    data.get(root)
    assert data.load(root, 0) == public
    (root / "public/classes.json").write_text("[]")
    with pytest.raises(Unavailable, match="no network"):
        data.get(root)


def test_missing_data_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="run `evolog data get lawbench`"):
        data.load(tmp_path, 0)


def test_baselines_beat_guessing(root: Path, public: Public) -> None:
    pytest.importorskip("sklearn")
    truth = gold.labels(root, 0)
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


DATA = """
from tasks.contract import Example, Item, Public
def default_root(): ...
def get(root, source): ...
def load(root, seed):
    train, dev, test = (Example("x", "x", "a", 3, "x"),), (Item("d", "d"),), (Item("t", "t"),)
    return Public("mine", ("a", "b"), train, dev, test, dict.fromkeys(SPLITS, "0"))
def labels(root, seed): return {"x": "a", "d": "b"}
SPLITS = ("train", "dev", "test")
"""


def task_folder(folder: Path) -> Path:
    (folder / "scaffold").mkdir(parents=True)
    (folder / "scaffold/agent.py").write_text("def solve(item, model, data): return ''\n")
    (folder / "task.py").write_text("NAME, DESCRIPTION, POLICY, GENERATIONS = 'mine', '', 'text-scorer', 1\n")
    (folder / "data.py").write_text(DATA)
    (folder / "verifier.py").write_text("VERSION = '1'\ndef score(answer, label): ...\n")
    (folder / "gold.py").write_text("def labels(root): return {'t': 'a'}\n")
    (folder / "baselines.py").write_text("BASELINES = {'a': lambda public, items: {item.id: 'a' for item in items}}\n")
    (folder / "README.md").write_text("")
    return folder


def test_a_users_folder_is_a_task(tmp_path: Path) -> None:
    task = loading.load(str(task_folder(tmp_path / "mine")))
    assert (task.name, task.labels(0), task.gold(0), task.edits()) == ("mine", {"x": "a", "d": "b"}, {"t": "a"}, ())
    public = task.public(0)
    assert [example.fold for example in public.train] == [3] and task.baselines()["a"](public, public.dev) == {"d": "a"}
    (task.folder / "baselines.py").unlink()
    assert task.baselines() == {}


@pytest.mark.parametrize(
    "file, content, why",
    [
        ("gold.py", None, r"has no gold\.py"),
        ("verifier.py", "VERSION = '1'\n", "must define one function of score and score_submission"),
        ("data.py", "import nowhere\n", "cannot be imported"),
    ],
)
def test_a_folder_that_breaks_the_contract_says_what_is_missing(
    tmp_path: Path, file: str, content: str | None, why: str
) -> None:
    folder = task_folder(tmp_path / "broken")
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(Misconfigured, match=why):
        loading.load(str(folder))


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        ("data.py", "return Public(", "return str(", r"data\.py: load (gave a str|raised TypeError)"),
        (
            "data.py",
            '"a", 3, "x"',
            '"a", "3", "x"',
            r"load gave a Public; expected .* got `str` - at `\$\.train\[0\]\.fold`",
        ),
        ("data.py", '"a", 3, "x"', '"a", 5, "x"', "the fold 5; expected folds from 0 to 4"),
        ("data.py", 'Item("t"', 'Item("d"', "the item id 'd' 2 times"),
        ("data.py", '("a", "b")', '("a", "a")', "the label 'a' 2 times"),
        ("data.py", '(Example("x", "x", "a", 3, "x"),)', "()", "no train;"),
        ("data.py", '(Item("d", "d"),)', "()", "no dev;"),
        ("data.py", '"dev", "test")', '"dev")', "no digest of test"),
        ("data.py", '{"x": "a", "d": "b"}', "None", "labels gave a NoneType; expected a dict"),
        ("data.py", '"d": "b"', '"d": 1', "all of them strings"),
        ("data.py", '"d": "b"', "", "labels gave no label for 1 items, such as 'd'"),
        ("gold.py", "'t'", "'u'", r"gold\.py: labels gave no label for 1 items, such as 't'"),
        ("gold.py", "{'t': 'a'}", "['a']", "labels gave a list; expected a dict"),
        (
            "gold.py",
            "def",
            "PERTURBATIONS = {'x': 1}\ndef",
            r"gold\.py: PERTURBATIONS is {'x': 1}; expected a dict of Perturbations",
        ),
        ("baselines.py", "{'a': ", "{'a': 1, 'b': ", "BASELINES is .* expected a dict of functions by name"),
        ("baselines.py", "{item.id: 'a' for item in items}", "'a'", "a gave a str; expected a dict"),
        ("task.py", "1\n", "'1'\n", r"task\.py: GENERATIONS is '1'; expected a whole number, 0 or more"),
        ("task.py", "1\n", "-1\n", "GENERATIONS is -1"),
        ("task.py", "1\n", "1\nSHARED_STATE = 'no'\n", "SHARED_STATE is 'no'; expected True or False"),
        ("task.py", "'text-scorer'", "None", "POLICY is None; expected a string"),
        ("verifier.py", "'1'", "1", "VERSION is 1; expected a string"),
    ],
)
def test_what_a_task_gives_is_checked(tmp_path: Path, file: str, old: str, new: str, why: str) -> None:
    folder = task_folder(tmp_path / "odd")
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    with pytest.raises(Misconfigured, match=why):
        task = loading.load(str(folder))
        task.labels(0), task.gold(0), task.perturbations()
        public = task.public(0)
        [predict(public, public.dev) for predict in task.baselines().values()]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("asked", ""),
        (
            "EvaluationSet(asked.labels, asked.items * 2)",
            "x gave 2 items; expected one at least, of those that were given, each once",
        ),
        ("EvaluationSet(asked.labels, ())", "x gave 0 items"),
        ("EvaluationSet(asked.labels, (Item('u', ''),))", "of those that were given"),
        ("EvaluationSet(asked.labels[1:], asked.items)", "x gave 1 labels; expected the 2 that were given"),
        ("None", "x raised AttributeError"),
    ],
)
def test_what_a_perturbation_gives_is_checked(tmp_path: Path, change: str, why: str) -> None:
    folder = task_folder(tmp_path / "changed")
    code = f"PERTURBATIONS = {{'x': Perturbation('', True, lambda asked, truth, seed: {change})}}"
    (folder / "gold.py").write_text(
        f"from tasks.contract import EvaluationSet, Item, Perturbation\ndef labels(root): return {{'t': 'a'}}\n{code}\n"
    )
    task = loading.load(str(folder))
    given = EvaluationSet(("a", "b"), (Item("t", "t"),))
    if not why:
        assert task.perturbed("x", given, task.gold(0), 0) == given
        return
    with pytest.raises(Misconfigured, match=rf"gold\.py: .*{why}"):
        task.perturbed("x", given, task.gold(0), 0)


@pytest.mark.parametrize("reward", ["1e200", "-1e308", "1.01e9", "10**400", "float('inf')", "float('nan')"])
def test_a_reward_that_cannot_be_summed_is_refused(tmp_path: Path, reward: str) -> None:
    with pytest.raises(Misconfigured, match=r"verifier\.py: .*expected"):
        verifier(tmp_path, f"{reward}, 'right'").score(ANY_ITEM, "a", "a")


def test_rewards_and_outcomes_have_limits(tmp_path: Path) -> None:
    assert mean_reward([verifier(tmp_path, "1e9, 'right'").score(ANY_ITEM, "a", "a").reward] * 3).mean == 1e9
    with pytest.raises(Misconfigured, match="the outcome is 'good'; expected one of right, wrong, unparsed"):
        verifier(tmp_path, "1.0, 'good'").score(ANY_ITEM, "a", "a")


def verifier(folder: Path, gives: str) -> loading.Task:
    folder = task_folder(folder / re.sub(r"\W", "_", gives))
    (folder / "verifier.py").write_text(
        f"from tasks.contract import Scored\nVERSION = '1'\ndef score(answer, label): return Scored({gives})\n"
    )
    return loading.load(str(folder))


def test_a_module_of_an_extra_that_is_missing_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = task_folder(tmp_path / "learned")
    (folder / "verifier.py").write_text("import sklearn.svm\nVERSION = '1'\ndef score(answer, label): ...\n")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(Misconfigured, match=r"sklearn.* is not installed, .* pip install 'evolog\[policy,tasks\]'"):
        loading.load(str(folder))


GOLD = """
def labels(root): return {'t': 'a'}
def ceiling(label, verifier): return {'1': 0.5, '2': 'much'}.get(verifier)
def canaries(label, verifier, reward): return {'1': {'b': (reward('b'), 0)}, '2': {'b': 1}}.get(verifier, {})
EXTRA_METRICS = {'length': lambda answer, label: len(answer) / len(label), 'odd': lambda answer, label: float('nan')}
"""


def test_what_a_task_holds_against_its_verifier_is_asked_and_checked(tmp_path: Path) -> None:
    folder = task_folder(tmp_path / "mine")
    text = "VERSION = '{}'\nfrom tasks.contract import Scored\ndef score(answer, label): return Scored(0.25, 'wrong')\n"
    (folder / "verifier.py").write_text(text.format(1))
    task = loading.load(str(folder))
    assert (task.canaries(ANY_ITEM, "a"), task.ceiling(ANY_ITEM, "a"), task.extra_metrics()) == ({}, None, {})
    (tmp_path / "other").mkdir()
    other = task_folder(tmp_path / "other" / "mine")
    (other / "verifier.py").write_text(text.format(1))
    (other / "gold.py").write_text(GOLD)
    task = loading.load(str(other))
    assert task.canaries(ANY_ITEM, "a") == {"b": (0.25, 0.0)} and task.ceiling(ANY_ITEM, "a") == 0.5
    extra_metrics = task.extra_metrics()
    assert extra_metrics["length"](ANY_ITEM, "abcd", "a") == 4
    (tmp_path / "older").mkdir()
    older = task_folder(tmp_path / "older" / "mine")
    (older / "gold.py").write_text(GOLD.replace("EXTRA_METRICS", "BESIDE"))
    assert loading.load(str(older)).extra_metrics()["length"](ANY_ITEM, "abcd", "a") == 4
    second, third = (task.with_verifier(text.format(number), "other.py") for number in (2, 3))
    assert third.canaries(ANY_ITEM, "a") == {} and third.ceiling(ANY_ITEM, "a") is None
    for broken, why in (
        (lambda: extra_metrics["odd"](ANY_ITEM, "", "a"), "odd gave nan"),
        (lambda: extra_metrics["length"](ANY_ITEM, None, "a"), "length raised TypeError"),
        (lambda: second.canaries(ANY_ITEM, "a"), "canaries gave"),
        (lambda: second.ceiling(ANY_ITEM, "a"), "ceiling gave 'much'"),
    ):
        with pytest.raises(Misconfigured, match=why):
            broken()
