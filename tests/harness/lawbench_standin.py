"""A made-up data folder in LawBench's format, small enough to load in an instant."""

import csv
import hashlib
import json
import random
from pathlib import Path

import msgspec
import pytest

from tasks.lawbench import data

LABELS = ("盗窃", "诈骗", "抢劫", "[生产、销售]假药", "失火", "放火")
WORDS = (
    "夜间撬门入室窃取现金首饰",
    "虚构投资项目骗取被害人钱财",
    "持刀威胁强行夺走手机钱包",
    "无证配制药品对外售卖牟利",
    "烧荒不慎引燃山林过火",
    "为泄愤点燃他人房屋",
)
EACH = 20


def write(folder: Path) -> None:
    """The four files under `folder`; each label's texts mix its own words with noise, and case 1 repeats case 0."""
    draw = random.Random(0)
    cases = []
    for label, words in zip(LABELS, WORDS, strict=True):
        for _ in range(EACH):
            noise = "".join(chr(draw.randrange(0x5000, 0x5800)) for _ in range(30))
            cases.append(("".join(draw.sample(words, 7)) + noise, label))
    draw.shuffle(cases)
    cases[1] = (cases[0][0] + "。", cases[0][1])
    train, test = cases[:-12], cases[-12:]
    _csv(
        folder / "training_data/train.csv",
        ("id", "text", "label"),
        [(i, text, label) for i, (text, label) in enumerate(train)],
    )
    _csv(folder / "public/test.csv", ("id", "text"), [(i, text) for i, (text, _) in enumerate(test)])
    _csv(folder / "private/test.csv", ("id", "label"), [(i, label) for i, (_, label) in enumerate(test)])
    (folder / "public/classes.json").write_text(json.dumps(LABELS, ensure_ascii=False), encoding="utf-8")


def install(root: Path, patch: pytest.MonkeyPatch) -> Path:
    """Write the stand-in under `root` and let LawBench expect its checksums."""
    write(root)
    checksums = {file: hashlib.sha256((root / file).read_bytes()).hexdigest() for file in data.FILES.checksums}
    patch.setattr(data, "FILES", msgspec.structs.replace(data.FILES, checksums=checksums))
    return root


def _csv(path: Path, head: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
