"""A model's GGUF file becomes a Hugging Face folder, which computes what transformers' own way does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
written: Any = pytest.importorskip("gguf")

from click.testing import CliRunner  # noqa: E402

from events.errors import CheckFailed, NotFound, NotHere, Unavailable  # noqa: E402
from runtime.policies import gguf, published  # noqa: E402
from runtime.policies.hf import HFTokenizer, resolve, write_base  # noqa: E402
from services.cli.main import main  # noqa: E402

LAYERS, WIDTH, HEADS, KV_HEADS, INNER = 2, 64, 4, 2, 96
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


def write_gguf(path: Path, pre: str = "smollm") -> None:
    """Write a Llama with random weights, of the types that SmolLM2's file has."""
    from tokenizers import pre_tokenizers

    draw = np.random.default_rng(0)
    file = written.GGUFWriter(path, "llama")
    file.add_context_length(128)
    file.add_embedding_length(WIDTH)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(INNER)
    file.add_head_count(HEADS)
    file.add_head_count_kv(KV_HEADS)
    file.add_rope_dimension_count(WIDTH // HEADS)
    file.add_rope_freq_base(1e4)
    file.add_layer_norm_rms_eps(1e-5)
    tokens = [*CONTROLS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "at", "c" + "at"]
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre(pre)
    file.add_token_list(tokens)
    file.add_token_types([3] * len(CONTROLS) + [1] * (len(tokens) - len(CONTROLS)))
    file.add_token_merges(["a t", "c at"])
    for number, set_id in enumerate((file.add_unk_token_id, file.add_bos_token_id, file.add_eos_token_id)):
        set_id(number)
    file.add_pad_token_id(2)
    file.add_chat_template(TEMPLATE)
    kinds = written.GGMLQuantizationType

    def add(name: str, rows: int, columns: int = 0, kind: Any = kinds.Q4_1) -> None:
        values = draw.normal(0, 0.3, (rows, columns) if columns else rows).astype(np.float32)
        if not columns:
            file.add_tensor(f"{name}.weight", values + 1)
        else:
            file.add_tensor(f"{name}.weight", written.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd", len(tokens), WIDTH, kinds.Q8_0)
    add("output_norm", WIDTH)
    for layer in range(LAYERS):
        add(f"blk.{layer}.attn_norm", WIDTH)
        add(f"blk.{layer}.ffn_norm", WIDTH)
        for part, rows, columns in (
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", WIDTH // HEADS * KV_HEADS, WIDTH),
            ("attn_v", WIDTH // HEADS * KV_HEADS, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", INNER, WIDTH),
            ("ffn_up", INNER, WIDTH),
            ("ffn_down", WIDTH, INNER),
        ):
            add(f"blk.{layer}.{part}", rows, columns)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def logits(folder: Path, ids: list[int]) -> Any:
    """The logits (tokens, vocabulary) of a folder's model after these tokens."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def test_both_ways_give_the_same_logits_and_tokens(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf")
    gguf.write_folder(tmp_path / "small.gguf", tmp_path / "ours")
    gguf.convert(tmp_path / "small.gguf", tmp_path / "theirs")
    ids = [5, 9, 77, 130, 200, 31]
    ours = logits(tmp_path / "ours", ids)
    assert torch.equal(ours, logits(tmp_path / "theirs", ids))
    assert ours.std() > 0.1, "logits that are all alike would be equal anyway"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert tokenizer.tokenize("cat at 12") == ["cat", "Ġ", "at", "Ġ", "1", "2"]
    assert tokenizer("a<|im_end|>", add_special_tokens=False)["input_ids"][-1] == 2
    assert tokenizer.apply_chat_template([{"role": "user", "content": "cat"}], tokenize=False) == (
        "<|im_start|>cat<|im_end|>"
    )


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf")
    for name in ("once", "again"):
        gguf.write_folder(tmp_path / "small.gguf", tmp_path / name)
    for file in sorted((tmp_path / "once").iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_a_block_is_worked_by_hand(tmp_path: Path) -> None:
    block = np.zeros(1, gguf.Q4_1_BLOCK)
    block["d"], block["m"], block["q"] = 0.5, -2.0, [[0x2F] * 16]
    (tmp_path / "q4").write_bytes(block.tobytes())
    values = gguf.dequantised(tmp_path / "q4", gguf.Tensor((32,), gguf.Q4_1, 0))
    assert values[:16].tolist() == [15 * 0.5 - 2.0] * 16, "the low half of each byte comes first"
    assert values[16:].tolist() == [2 * 0.5 - 2.0] * 16
    block8 = np.zeros(1, gguf.Q8_0_BLOCK)
    block8["d"], block8["q"] = 0.25, np.arange(-16, 16)
    (tmp_path / "q8").write_bytes(block8.tobytes())
    values = gguf.dequantised(tmp_path / "q8", gguf.Tensor((2, 16), gguf.Q8_0, 0))
    assert values[0, 0] == -4.0 and values[1, 15] == 3.75


def test_rows_of_a_head_are_put_back_by_halves() -> None:
    rows = np.arange(8.0)[:, None]
    assert gguf.rotated_by_halves(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 16, b"nothing of the kind"])
def test_a_file_that_is_no_gguf_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(CheckFailed, match="is no GGUF file that can be read"):
        gguf.contents(tmp_path / "bad.gguf")
    with pytest.raises(CheckFailed, match="is no GGUF file that transformers can read"):
        gguf.convert(tmp_path / "bad.gguf", tmp_path / "out")


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf")
    whole = (tmp_path / "small.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:-1000])
    with pytest.raises(CheckFailed, match="ends before its tensors do"):
        gguf.write_folder(tmp_path / "cut.gguf", tmp_path / "out")


def test_another_model_is_left_to_transformers(tmp_path: Path) -> None:
    write_gguf(tmp_path / "other.gguf", pre="qwen2")
    with pytest.raises(CheckFailed, match="holds a llama with the tokenizer qwen2"):
        gguf.write_folder(tmp_path / "other.gguf", tmp_path / "out")


def test_a_gguf_file_is_a_policy_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_gguf(tmp_path / "small.gguf")
    folder = resolve(str(tmp_path / "small.gguf"))
    assert folder == published.get(str(tmp_path / "small.gguf")) and (folder / "config.json").is_file()
    write_base(str(tmp_path / "small.gguf"), tmp_path / "base")
    assert HFTokenizer.load(tmp_path / "base").model_name == str(tmp_path / "small.gguf")


def test_models_are_listed_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_gguf(tmp_path / "small.gguf")
    got = CliRunner().invoke(main, ["model", "get", str(tmp_path / "small.gguf")])
    assert got.exit_code == 0, got.output
    (listed,) = published.cached_models()
    assert listed.folder == got.stdout.strip() and listed.bytes > 10_000
    shown = CliRunner().invoke(main, ["model", "ls"])
    assert listed.name in shown.stdout and "evolog model get smollm2" in shown.stderr
    assert CliRunner().invoke(main, ["model", "rm", listed.name]).exit_code == 0
    assert published.cached_models() == []
    again = CliRunner().invoke(main, ["model", "rm", listed.name])
    assert again.exit_code == NotFound.code and "There is no model" in again.stderr


def test_a_model_that_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(NotHere, match="run `evolog model get smollm2`"):
        resolve("smollm2")
    with pytest.raises(NotFound, match="There is no model 'smollm3'"):
        published.get("smollm3")


def test_other_bytes_than_those_published_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / published.MODELS["smollm2"].file).write_bytes(b"GGUF of somebody else")
    with pytest.raises(CheckFailed, match=r"not b179c9523d0e as published; run `evolog model get smollm2`"):
        published.get("smollm2", tmp_path / "from")
    assert published.cached_models() == []


def test_weights_that_were_cut_short_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_gguf(tmp_path / "small.gguf")
    folder = published.from_gguf(tmp_path / "small.gguf")
    whole = (folder / published.WEIGHTS).read_bytes()
    (folder / published.WEIGHTS).write_bytes(whole[:100])
    assert published.from_gguf(tmp_path / "small.gguf") == folder
    assert len((folder / published.WEIGHTS).read_bytes()) == len(whole)


@pytest.mark.slow
def test_smollm2_computes_what_transformers_own_way_does(tmp_path: Path) -> None:
    try:
        folder = published.get("smollm2")
        published.MODELS["smollm2"].files.get(tmp_path / "fetched")
    except Unavailable as away:
        pytest.skip(str(away))
    gguf.convert(tmp_path / "fetched" / published.MODELS["smollm2"].file, tmp_path / "theirs")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("How does the word 'lovely' feel? 1984 was not lovely.")["input_ids"]
    ours = logits(folder, ids)
    assert torch.equal(ours, logits(tmp_path / "theirs", ids))
    assert tokenizer.decode(int(logits(folder, tokenizer("The capital of France is")["input_ids"])[-1].argmax())) == (
        " Paris"
    )
