"""Loading: a thinking model from the Hub, a folder, memory, or from what comes with steerkit."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from steerkit.adapters import Adapter, import_peft, merge_adapter
from steerkit.errors import ModelError
from steerkit.memory import out_of_memory
from steerkit.models import ThinkingModel
from steerkit.number_formats import DTYPES, in_quick_format
from steerkit.resources import bundled_adapters, bundled_models

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load(
    source: str | Path | nn.Module,
    *,
    adapter: str | Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    think: tuple[str, str] | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    revision: str | None = None,
    name: str | None = None,
) -> ThinkingModel:
    """Get a thinking model.

    Parameters
    ----------
    source:
        A bundled name (``"countdown-thinking"``), a folder, a Hub name
        (``"deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"``), or a Hugging Face model in
        memory, which needs its ``tokenizer``.
    adapter:
        A LoRA adapter to merge into the weights: a bundled name, a folder in peft's format,
        such as ``steerkit train adapter`` makes, or a Hub name. It may bring think strings and
        a chat template. Name and revision tell that it is there; directions of the base fit
        the model with the adapter too, and are used on it without a warning. Needs the extra
        ``adapter``; see :mod:`steerkit.adapters`. Not with a model in memory.
    think:
        Opening and closing think string, where the tokenizer does not tell: for a model
        that writes them as plain text, ``("<think>", "</think>")``.
    device:
        ``"cuda"``, ``"cpu"``, ...; by default a CUDA GPU if there is one, else the CPU. Not
        with ``device_map``.
    dtype:
        ``"bfloat16"``, ``"float16"``, ``"float32"`` (or ``bf16``, ``fp16``, ``fp32``); by
        default, or ``"auto"``, the checkpoint's own. On the CPU that is float32 for float16, and
        for bfloat16 as well where the processor has no instructions for it and memory allows:
        reading is several times slower there.
    device_map:
        Passed to Hugging Face, to spread a model with accelerate.
    revision, name:
        A commit, branch or tag on the Hub, not of a bundled model; another name for
        provenance.

    Raises :class:`ModelError` for a model that cannot be found, read, understood or moved
    to the device, and for one without think strings. Code that comes with a model is never
    run, and weights are read from safetensors only: nothing is unpickled.
    """
    if isinstance(source, nn.Module):
        if tokenizer is None:
            raise ModelError(
                "a model in memory needs its tokenizer",
                fix="pass tokenizer=AutoTokenizer.from_pretrained(...)",
            )
        if adapter is not None:
            raise ModelError(
                "a model in memory stays where and as it is",
                expected="no adapter",
                fix="merge it before: PeftModel.from_pretrained(hf, ...).merge_and_unload()",
            )
        if device is not None or device_map is not None or dtype is not None:
            raise ModelError(
                "a model in memory stays where and as it is",
                expected="no device, device_map or dtype",
                fix="move or cast it before: hf.to(...)",
            )
        hf = getattr(source, "original_model", source)
        called = name or _name_of(hf)
        return ThinkingModel(hf, tokenizer, name=called, revision=revision, think=think)
    added = None
    if adapter is not None:
        import_peft()
        added = Adapter.find(adapter)
    place, called, state = _resolve(source, revision)
    if device is not None and device_map is not None:
        raise ModelError("device and device_map exclude each other", fix="name one of them")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    hf = _read_model(place, dtype, device, device_map, revision)
    if tokenizer is None:
        tokenizer = read_tokenizer(place, revision)
    state = state or getattr(hf.config, "_commit_hash", None)
    called = name or called
    if added is not None:
        hf = merge_adapter(hf, added, called)
        think = think or added.think
        if added.chat_template is not None:
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.chat_template = added.chat_template
    hf.eval()
    hf.requires_grad_(False)
    return ThinkingModel(hf, tokenizer, name=called, revision=state, think=think, adapter=added)


def _name_of(hf: Any) -> str:
    """What a model in memory is called: its Hub name, its folder's name, or its class."""
    origin = str(getattr(hf.config, "_name_or_path", ""))
    hub = re.fullmatch(r"\w[\w.-]*/[\w.-]+", origin) and not Path(origin).exists()
    return origin if hub else Path(origin).name or type(hf).__name__


def _resolve(source: str | Path, revision: str | None) -> tuple[str, str, str | None]:
    """Where a model lies, what it is called, and its revision if that is known already."""
    folder = Path(source)
    bundled = bundled_models()
    if str(source) in bundled and not folder.is_dir():
        if revision is not None:
            raise ModelError(
                f"the bundled model {str(source)!r} has one revision only",
                found=f"revision {revision!r}",
                fix="leave the revision away: it is for models of the Hub",
            )
        path = bundled[str(source)]
        weights = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
        return str(path), str(source), weights[:16]
    alone = (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()
    if alone or (str(source) in bundled_adapters() and not folder.is_dir()):
        raise ModelError(
            f"{str(source)!r} is an adapter and no model of its own",
            fix=f"load its base with it: sk.load(BASE, adapter={str(source)!r}), or "
            f"--model BASE --adapter {source}",
        )
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                "the folder holds no model",
                expected="a Hugging Face folder with config.json",
                where=source,
            )
        return str(folder), folder.resolve().name, revision
    text = str(source)
    if text.count("/") != 1 or text.startswith((".", "~", "/")):
        raise ModelError(
            f"no model {text!r}",
            expected="a bundled name (" + ", ".join(bundled) + "), a folder, or a Hub name "
            "such as deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        )
    return text, text, revision


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


def _read_model(
    place: str,
    dtype: str | torch.dtype | None,
    device: str | torch.device,
    device_map: str | Mapping[str, Any] | None,
    revision: str | None,
) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    wanted: Any = "auto" if dtype is None else dtype
    if isinstance(wanted, str) and wanted != "auto":
        if wanted not in DTYPES:
            raise ModelError(f"unknown dtype {wanted!r}", expected="one of " + ", ".join(DTYPES))
        wanted = DTYPES[wanted]
    target = _checked_device(device, device_map)
    try:
        # False, not None: else Hugging Face asks on the terminal whether to run a model's code
        config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
        if wanted == "auto" and target.type == "cpu" and config.dtype == torch.float16:
            wanted = torch.float32  # float16 arithmetic is slow and coarse on a CPU
        _refuse_pickled(place, config)
        hf = AutoModelForCausalLM.from_pretrained(
            place,
            revision=revision,
            dtype=wanted,
            device_map=device_map,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as problem:
        if "cannot be loaded with `safetensors`" in str(problem):  # on the Hub, and only there
            raise _pickled(place, _first_line(problem)) from problem
        raise ModelError(
            f"cannot load the model {place!r}",
            found=_first_line(problem),
            fix="check the name, that it is on this machine or the Hub can be reached, and that "
            "access was granted; a model that needs code of its own cannot be loaded",
        ) from problem
    except (SafetensorError, RuntimeError, AssertionError, MemoryError) as problem:
        if device_map is not None and _of_the_device(problem):
            raise _cannot_move(place, f"device_map={device_map!r}", problem) from problem
        raise ModelError(
            f"cannot read the weights of {place!r}",
            found=_first_line(problem),
            fix="they are damaged or of another shape than config.json says: get them again",
        ) from problem
    if getattr(hf, "_hf_peft_config_loaded", False):
        raise ModelError(
            f"{place!r} holds a model and an adapter of it",
            expected="one of the two, so that it is known which model this is",
            fix="keep the adapter in a folder of its own and name it: sk.load(BASE, adapter=...)",
        )
    if device_map is not None:
        return hf
    try:
        # transformers refuses to cast a quantised model, whose other weights are bfloat16
        castable = not getattr(hf, "is_quantized", False)
        if wanted == "auto" and castable and target.type == "cpu" and hf.dtype == torch.bfloat16:
            hf = in_quick_format(hf)
        return hf.to(target)
    except (RuntimeError, AssertionError, ImportError, MemoryError) as problem:
        raise _cannot_move(place, str(target), problem) from problem


def _checked_device(
    device: str | torch.device, device_map: str | Mapping[str, Any] | None
) -> torch.device:
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ModelError(
            f"unknown device {device!r}", expected="cpu, cuda, cuda:0, mps ..."
        ) from None
    spread = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    if "meta" in (target.type, *map(str, spread)):
        raise ModelError("the meta device holds no weights", fix="use --device cpu")
    if target.type == "cuda" and not torch.cuda.is_available() and device_map is None:
        raise ModelError("no CUDA device here", found=str(device), fix="use --device cpu")
    return target


def _refuse_pickled(place: str, config: Any) -> None:
    """Refuse a folder whose weights could only be unpickled; one without weights passes."""
    named = str(getattr(config, "transformers_weights", None) or "")
    folder = Path(place)
    safe = any(folder.glob("*.safetensors")) or not folder.is_dir()
    found = sorted(file.name for file in folder.glob("pytorch_model*.bin"))
    if named.endswith(".bin") or (found and not safe):
        raise _pickled(place, named or ", ".join(found))


def _pickled(place: str, found: str) -> ModelError:
    return ModelError(
        f"the weights of {place!r} are pickled, and reading them could run code",
        expected="model.safetensors",
        found=found,
        fix="convert it to safetensors first",
    )


def _of_the_device(problem: BaseException) -> bool:
    """Whether loading failed because of where the weights should go, not of what they are."""
    absent = isinstance(problem, AssertionError) or "device" in _first_line(problem)
    return absent or out_of_memory(problem)


def _cannot_move(place: str, target: str, problem: BaseException) -> ModelError:
    room = "name a dtype of half the size, spread the model with device_map, or use --device cpu"
    short = out_of_memory(problem)
    return ModelError(
        f"no memory left for {place!r} on {target}" if short else f"cannot use {target} here",
        found=_first_line(problem),
        fix=room if short else "name a device that is here, such as --device cpu",
    )


def read_tokenizer(place: str, revision: str | None = None) -> Any:
    """The tokenizer of a folder or of a model on the Hub, as its ``tokenizer.json`` says.

    Raises :class:`ModelError` where it cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    try:
        declared = get_tokenizer_config(place, revision=revision).get("tokenizer_class")
        # AutoTokenizer rebuilds the tokenizer of every model of type qwen2 as Qwen2's own BPE,
        # whatever tokenizer.json holds; where the folder declares the general class, read it so
        general = declared in ("TokenizersBackend", "PreTrainedTokenizerFast")
        reader: Any = PreTrainedTokenizerFast if general else AutoTokenizer
        return reader.from_pretrained(place, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as problem:
        raise ModelError(
            f"cannot load the tokenizer of {place!r}",
            found=_first_line(problem),
            fix="pass tokenizer=...",
        ) from problem
