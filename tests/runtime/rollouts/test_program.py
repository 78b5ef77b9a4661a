"""Programs in SIA's style: what they are given, what is read of what they leave, and what it comes to."""

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, cast

import pytest

from runtime.rollouts import program
from runtime.rollouts.host import ScaffoldData
from runtime.rollouts.openai import relay
from runtime.rollouts.openai.dialect import BridgeCall
from runtime.rollouts.program import OutputLimits, OutputTooLarge, ProgramResult
from runtime.sandbox.launch import Kind
from tasks.contract import Item
from tests.harness.openai_server import TOKEN, BackwardsPolicy, serving
from tests.harness.programs import ASKS_FOR_EACH, LOOKS_AT_OTHERS

DATA = ScaffoldData(
    ("theft", 'a "fraud",\nlarge'), [("took a cow", "theft"), ("sold\r\nnothing, twice", 'a "fraud",\nlarge')]
)
ITEMS = [Item("dev0", "took a bicycle"), Item("dev1", 'sold the bridge, "his" own\nsay he'), Item("dev2", "出售毒品")]


def test_a_folder_is_a_program_unless_its_agent_solves() -> None:
    program_text, solves = ASKS_FOR_EACH.encode(), b"def solve(item, model, data): return '--dataset_dir'"
    assert program.entry_of({"agent.py": program_text}) == "agent.py"
    assert (
        program.entry_of({"reference_target_agent.py": program_text, "helper.py": b""}) == "reference_target_agent.py"
    )
    assert program.entry_of({"agent.py": solves, "target_agent.py": program_text}) is None
    assert program.entry_of({"agent.py": b"from steps import run as solve", "main.py": program_text}) is None
    assert program.entry_of({"agent.py": b"solve = print", "main.py": program_text}) is None
    assert program.entry_of({"agent.py": b"def solve(", "main.py": program_text}) == "main.py"
    assert program.entry_of({"other.py": program_text}) is None


def test_the_model_that_a_program_calls_is_the_bridges() -> None:
    found = program.retarget(ASKS_FOR_EACH)
    assert 'HOSTED_BASE_URL = __import__("os").environ["OPENAI_BASE_URL"]' in found
    assert 'HOSTED_MODEL = __import__("os").environ["OPENAI_MODEL"]' in found
    assert [a == b for a, b in zip(found.splitlines(), ASKS_FOR_EACH.splitlines(), strict=True)].count(False) == 2
    assert program.retarget("MODEL_NAME = 'x'\n    MODEL = 'y'\nREMODEL = 'z'") == (
        "MODEL_NAME = __import__(\"os\").environ[\"OPENAI_MODEL\"]\n    MODEL = 'y'\nREMODEL = 'z'"
    )
    assert (
        program.environment(ASKS_FOR_EACH, "t", "m").items()
        >= {"HOSTED_API_KEY": "t", "OPENAI_API_KEY": "t", "OPENAI_MODEL": "m"}.items()
    )


def test_a_dataset_holds_what_a_scaffold_may_see_and_reads_back(tmp_path: Path) -> None:
    program.write_dataset(tmp_path, DATA, ITEMS, "Which crime?")

    def rows(name: str) -> list[dict[str, str]]:
        with open(tmp_path / name, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    assert [(row["text"], row["label"]) for row in rows("train.csv")] == list(DATA.train)
    assert [Item(row["id"], row["text"]) for row in rows("test.csv")] == ITEMS and list(rows("test.csv")[0]) == [
        "id",
        "text",
    ]
    assert json.loads((tmp_path / "classes.json").read_text()) == list(DATA.labels)
    assert {path.name for path in tmp_path.iterdir()} == {
        "train.csv", "test.csv", "classes.json", "sample_submission.csv", "task.md",
    }  # fmt: skip


def tar_of(*members: tuple[str, bytes | None, Callable[[tarfile.TarInfo], object]]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data, change in members:
            info = tarfile.TarInfo(name)
            info.size = len(data or b"")
            change(info)
            tar.addfile(info, io.BytesIO(data or b""))
    out.seek(0)
    return out


def plain(info: tarfile.TarInfo) -> None:
    """Leave it a regular file."""


def kind(type: bytes, to: str = "") -> Callable[[tarfile.TarInfo], object]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = type, to

    return change


def test_of_a_tar_only_plain_files_inside_are_read() -> None:
    found = program.read_tar(
        tar_of(
            ("./submission.csv", b"id,label\n", plain),
            ("results", None, kind(tarfile.DIRTYPE)),
            ("results/a.json", b"[]", plain),
            ("link", None, kind(tarfile.SYMTYPE, "/etc/passwd")),
            ("hard", None, kind(tarfile.LNKTYPE, "submission.csv")),
            ("fifo", None, kind(tarfile.FIFOTYPE)),
            ("zero", None, kind(tarfile.CHRTYPE)),
            ("../out", b"x", plain),
            ("/abs", b"x", plain),
            ("large", b"x" * 101, plain),
            ("last", b"y" * 100, plain),
        ),
        OutputLimits(file=100),
    )
    assert found == {"submission.csv": b"id,label\n", "results/a.json": b"[]", "last": b"y" * 100}


def test_a_tar_is_read_so_far_and_no_further() -> None:
    with pytest.raises(OutputTooLarge, match="more than 2 files"):
        program.read_tar(tar_of(*((f"f{number}", b"", plain) for number in range(3))), OutputLimits(files=2))

    class Endless(io.RawIOBase):
        """A header that promises a terabyte, and then whatever is asked for."""

        given = 0

        def read(self, size: int = -1) -> bytes:
            header = tarfile.TarInfo("f")
            header.size = 1 << 40
            self.given += size
            return header.tobuf().ljust(size, b"x")[:size] if self.given == size else b"x" * size

    endless = Endless()
    with pytest.raises(OutputTooLarge, match="more than is read"):
        program.read_tar(cast("IO[bytes]", endless), OutputLimits(total=1 << 20))
    assert endless.given <= (1 << 20) + 1
    for broken in (b"x" * 2000, tar_of(("f", b"x" * 5000, plain)).read(1000)):
        with pytest.raises(ValueError, match="what the program left cannot be read"):
            program.read_tar(io.BytesIO(broken))


def header(name: bytes = b"f", size: bytes = b"%011o", kind: bytes = b"0", content: int = 0) -> bytes:
    """A block as a program could forge it, its checksum right."""
    block = bytearray(tarfile.TarInfo("f").tobuf(tarfile.USTAR_FORMAT)[:512])
    block[0:100], block[156:157] = name.ljust(100, b"\0"), kind
    block[124:136] = (size % content if b"%" in size else size).ljust(12, b"\0")
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:]))
    return bytes(block)


END, BINARY = b"\0" * 1024, (1 << 95 | 1 << 62).to_bytes(12)  # a size of 2^62, as GNU's tar writes one


@pytest.mark.parametrize(
    "forged",
    [
        header(size=BINARY) + END,
        header(size=BINARY, kind=b"2") + END,  # of a link
        header(size=b"77777777777") + END,
        header(size=b"-1") + END,
        header(size=b"", kind=b"5") + END,
        header(size=b"9") + END,
        header(kind=b"x", content=1 << 30) + END,
        header(kind=b"L", content=1 << 30) + END,
        header(kind=b"S") + END,  # a hole
        header(kind=b"g", content=512) + b"\0" * 512 + END,
        header(kind=b"x", content=25) + b"25 size=4611686018427387904\n".ljust(512, b"\0") + header() + END,
        header(kind=b"x", content=22) + b"22 GNU.sparse.major=1\n".ljust(512, b"\0") + header() + END,
        header(kind=b"x", content=9) + b"0 path=a\n".ljust(512, b"\0") + header() + END,
        header(kind=b"x", content=9) + b"99 path=a".ljust(512, b"\0") + header() + END,
        header(kind=b"x", content=1 << 20) + b"1" * (1 << 20) + header() + END,
        header(),  # no end
        header(content=600) + b"\0" * 512 + END[:88],
        b"",
    ],
)
def test_a_forged_tar_is_refused_in_one_pass(forged: bytes) -> None:
    class Once(io.BytesIO):
        """Read to its end once, and no more: whoever asks again would ask for ever."""

        def read(self, size: int | None = -1) -> bytes:
            assert self.tell() == 0
            return super().read(size)

    with pytest.raises(ValueError, match="what the program left cannot be read"):
        program.read_tar(Once(forged))


def test_what_the_relay_writes_is_read(tmp_path: Path) -> None:
    names = ["a.csv", "n" * 200 + ".json", "é" * 50, "folder/" + "d" * 120 + "/b.json"]
    for name in names:
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / name).write_text(name)
    (tmp_path / "work" / "link").symlink_to("/etc/passwd")
    read, write = os.pipe()
    command = [relay.__file__, str(tmp_path / "none.sock"), "0", "60", str(write), str(tmp_path / "work")]
    with subprocess.Popen([sys.executable, *command, "true"], pass_fds=(write,)), os.fdopen(read, "rb") as stream:
        os.close(write)
        assert program.read_tar(stream) == {name: name.encode() for name in names}


def test_names_that_no_event_can_hold_are_shown_with_marks() -> None:
    forged = header(b"results\xff.json", content=1) + b"[".ljust(512, b"\0") + END
    ended = ProgramResult(0, program.read_tar(io.BytesIO(forged)))
    assert "results\N{REPLACEMENT CHARACTER}.json cannot be read" in program.outcomes(ITEMS, ended)[0].reason
    many = ProgramResult(0, {"submission.csv": b"id,label\n" + b"a,b\n" * 100_001})
    assert "holds more than 100000 rows" in program.outcomes(ITEMS, many)[0].reason
    long = ProgramResult(0, {f"results{'x' * 50_000}.json": b"["})
    assert len(program.outcomes(ITEMS, long)[0].reason) < 300


SHAPES: dict[str, Mapping[str, bytes]] = {
    "lawbench": {"submission.csv": b"id,label\ndev0,theft\ndev1,fraud\n", "execution_summary.json": b"{}"},
    "named otherwise": {"predictions.csv": b"\xef\xbb\xbfitem,charge\ndev0,theft\ndev1,fraud\n"},
    "gpqa": {
        "results/m_1.json": b"[]",
        "results/m_2.json": b'{"model": "m", "details": [{"question_id": "dev0", "model_answer": "theft"},'
        b' {"question_id": "dev2", "error": "timed out"}, {"question_id": "dev1", "model_answer": "fraud"}]}',
    },
    "chess": {
        "responses.json": b'[{"question_id": "dev0", "solution": "theft"}, {"question_id": "dev1", "solution": '
        b'"fraud"},'
        b' {"question_id": "dev2", "solution": null}]',
        "summary.json": b"{}",
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_answers_are_found_in_the_shapes_that_sia_reads(shape: str) -> None:
    found = program.outcomes(ITEMS, ProgramResult(0, SHAPES[shape]))
    assert [(one.item, one.answer, one.kind) for one in found] == [
        ("dev0", "theft", ""),
        ("dev1", "fraud", ""),
        ("dev2", None, ""),
    ]


def test_numbers_and_lists_are_answers_as_json() -> None:
    assert program.answers_in({"responses.json": b'[{"id": 1, "answer": 218}, {"id": 2, "answer": ["c4", "d5"]}]'})[
        0
    ] == {
        "1": "218",
        "2": '["c4","d5"]',
    }


def test_what_came_of_a_program_that_failed() -> None:
    half = {"submission.csv": b"id,label\ndev0,theft\ndev1,fraud\ndev1,theft\nother,x\n"}
    crashed = program.outcomes(ITEMS, ProgramResult(1, half, "Traceback\nKeyError: 'text'\n"), attempt=2)
    assert [(one.attempt, one.answer, one.kind) for one in crashed] == [
        (2, "theft", ""),
        (2, None, "nonsense"),
        (2, None, "crashed"),
    ]
    assert crashed[2].reason == "the program exited with 1: KeyError: 'text'"
    hung = program.outcomes(ITEMS, ProgramResult(137, {}, kind="hung", reason="the program had not ended after 2 s"))
    assert {(one.kind, one.reason) for one in hung} == {("hung", "the program had not ended after 2 s")}
    unreadable = program.outcomes(ITEMS, ProgramResult(0, {"submission.csv": b"id,label\n\xff,\xff\n"}))
    assert unreadable[0].kind == "nonsense" and unreadable[0].reason.startswith("submission.csv cannot be read:")
    deep = program.outcomes(ITEMS, ProgramResult(0, {"responses.json": b"[" * 100_000}))
    assert deep[0].kind == "nonsense"
    long = program.outcomes(ITEMS[:1], ProgramResult(0, {"submission.csv": b"id,label\ndev0," + b"x" * 20_000}))
    assert long[0].reason == "an answer of 20000 characters, at most 16384"


def test_a_call_belongs_to_the_item_whose_text_it_holds() -> None:
    items = [Item("a", "took"), Item("b", "took a bicycle"), Item("c", "")]
    assert [program.item_of_call(text, items) for text in ("He took a bicycle.", "He took.", "He slept.")] == [
        "b",
        "a",
        "",
    ]


@pytest.mark.parametrize("kind", ["bwrap", "none"])
def test_a_program_asks_over_the_bridge_and_answers(tmp_path: Path, kind: Kind) -> None:
    folders = {name: tmp_path / name for name in ("code", "data", "scratch")}
    for folder in folders.values():
        folder.mkdir()
    (folders["code"] / "target_agent.py").write_text(program.retarget(ASKS_FOR_EACH))
    program.write_dataset(folders["data"], DATA, ITEMS, "Which crime?")
    policy = BackwardsPolicy()
    with serving(tmp_path, policy) as served:
        launch = program.launcher(kind, folders["scratch"], served.path, 60)
        env = program.environment(ASKS_FOR_EACH, TOKEN, "policy")
        ended = program.run(launch, folders["code"], "target_agent.py", folders["data"], env)
    assert (ended.code, ended.kind) == (0, ""), ended.output
    assert [one.answer for one in program.outcomes(ITEMS, ended)] == [item.prompt[::-1][:3] for item in ITEMS]
    assert [program.item_of_call(call.prompts[0], ITEMS) for call in policy.calls] == ["dev0", "dev1", "dev2"]
    assert all(isinstance(call, BridgeCall) and call.max_tokens == 50 for call in policy.calls)
    assert not list(folders["scratch"].iterdir())


@pytest.mark.parametrize("kind", ["bwrap", pytest.param("none", marks=pytest.mark.slow)])
def test_a_program_that_hangs_or_crashes_is_ended_and_what_it_wrote_is_kept(tmp_path: Path, kind: Kind) -> None:
    (tmp_path / "code").mkdir()
    starts = (
        "import sys, time, pathlib\npathlib.Path(sys.argv[4], "
        "'submission.csv').write_text('id,label\\ndev0,theft\\n')\n"
    )
    for name, last in (
        ("hangs.py", "print('going', flush=True)\ntime.sleep(600)"),
        ("crashes.py", "raise KeyError('text')"),
    ):
        (tmp_path / "code" / name).write_text(starts + last)
    (tmp_path / "none.sock").touch()
    (tmp_path / "data").mkdir()
    launch = program.launcher(kind, tmp_path, tmp_path / "none.sock", 5)
    hangs, crashes = (
        program.run(launch, tmp_path / "code", name, tmp_path / "data", {}) for name in ("hangs.py", "crashes.py")
    )
    assert (hangs.kind, hangs.output) == ("hung", "going\n")
    assert (
        crashes.code == 1
        and program.outcomes(ITEMS, crashes)[1].reason == "the program exited with 1: KeyError: 'text'"
    )
    assert [program.outcomes(ITEMS, ended)[0].answer for ended in (hangs, crashes)] == ["theft", "theft"]


def test_a_program_cannot_open_what_the_relay_holds(tmp_path: Path) -> None:
    for name in ("code", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "none.sock").touch()
    (tmp_path / "code" / "looks.py").write_text(LOOKS_AT_OTHERS)
    launch = program.launcher("bwrap", tmp_path, tmp_path / "none.sock", 60)
    assert program.run(launch, tmp_path / "code", "looks.py", tmp_path / "data", {}).output == "1 []\n"
