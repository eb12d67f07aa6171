"""Adapters: small trained changes of a base model, in peft's folder format, merged on loading.

An adapter such as LoRA (arXiv 2106.09685) is a low-rank change of some weights. It is added to
the weights when the model is loaded, so that the model keeps its modules, hook points, speed and
memory. In float32 that equals the adapter left apart up to the rounding of one addition. In
bfloat16 the sum is rounded to 8 bits, which is noise of the size that the base's own weights
carry already.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steerkit.errors import ModelError
from steerkit.files import parse_json
from steerkit.resources import bundled_adapters

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TEMPLATE = "chat_template.jinja"
RECORD = "training.json"
"""What steerkit writes beside peft's files: think strings, recipe, chains, figures."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, and which adapter it is.

    Attributes
    ----------
    name, folder:
        What it is called, and where it lies.
    digest:
        First 16 digits of the SHA-256 of its configuration, weights and chat template.
    base:
        The model that it was trained on, as it says itself, or ``None``.
    think:
        The think strings that it was trained with, or ``None`` where it does not say.
    chat_template:
        The template that takes the place of the base's, or ``None``.
    """

    name: str
    folder: Path
    digest: str
    base: str | None = None
    think: tuple[str, str] | None = None
    chat_template: str | None = None

    @property
    def facts(self) -> dict[str, str | None]:
        """What provenance says of it."""
        return {"name": self.name, "digest": self.digest, "base": self.base}

    @staticmethod
    def find(source: str | Path) -> Adapter:
        """The adapter of a bundled name, a folder, or a name on the Hugging Face Hub.

        Raises :class:`ModelError` where there is none, and for weights that are not in
        safetensors: nothing is unpickled.
        """
        folder = _folder_of(source)
        described = _read(folder / CONFIG)
        record = _read(folder / RECORD) if (folder / RECORD).is_file() else {}
        think, template = record.get("think"), folder / TEMPLATE
        digest = hashlib.sha256()
        for file in (CONFIG, WEIGHTS, TEMPLATE):
            if (folder / file).is_file():
                content = hashlib.sha256((folder / file).read_bytes()).hexdigest()
                digest.update(f"{file} {content}\n".encode())
        if not (isinstance(think, list) and len(think) == 2):
            think = None
        return Adapter(
            name=Path(source).resolve().name if Path(source).is_dir() else str(source),
            folder=folder,
            digest=digest.hexdigest()[:16],
            base=described.get("base_model_name_or_path") or None,
            think=None if think is None else (str(think[0]), str(think[1])),
            chat_template=template.read_text("utf-8") if template.is_file() else None,
        )


def import_peft() -> Any:
    """The library peft; :class:`ModelError` names the extra that brings it."""
    if find_spec("peft") is None:
        raise ModelError(
            "adapters need the package peft",
            fix="install the `adapter` extra: pip install 'steerkit-thinking[adapter]'",
        )
    return import_module("peft")


def merge_adapter(hf: Any, adapter: Adapter, base: str) -> Any:
    """Add the adapter to the weights of ``hf``, in place; the same model, its modules as before.

    ``base`` is the name of ``hf``; another base than the adapter names is warned of, and the last
    part of a name counts. Raises :class:`ModelError` for an adapter that does not fit the model
    to the last matrix, and for weights that are quantised or offloaded.
    """
    peft = import_peft()
    _check_plain(hf, adapter)
    if adapter.base is not None and _last(adapter.base) != _last(base):
        _log.warning(
            "the adapter %s was trained on %s and is used on %s", adapter.name, adapter.base, base
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what peft warns of is an error below
            adapted = peft.PeftModel.from_pretrained(hf, str(adapter.folder))
            _check_whole(peft, adapted, adapter)
            return adapted.merge_and_unload(safe_merge=True)
    except ModelError:
        raise
    except Exception as problem:  # peft and safetensors raise many kinds
        raise ModelError(
            f"the adapter {adapter.name!r} cannot be merged into {base}",
            expected=f"an adapter of {base}" if adapter.base is None else f"{adapter.base}",
            found=(str(problem).strip().splitlines() or [type(problem).__name__])[0],
            where=adapter.folder,
            fix="load the model that the adapter was trained on",
        ) from problem


def _folder_of(source: str | Path) -> Path:
    folder, bundled = Path(source), bundled_adapters()
    if str(source) in bundled and not folder.is_dir():
        return bundled[str(source)]
    text = str(source)
    if not folder.is_dir() and text.count("/") == 1 and not text.startswith((".", "~", "/")):
        folder = _download(text)
    missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        pickled = (folder / "adapter_model.bin").is_file()
        raise ModelError(
            f"no adapter {text!r}",
            expected=f"a bundled name ({', '.join(bundled) or 'none here'}), a name on the Hub, "
            f"or a folder with {CONFIG} and {WEIGHTS}",
            found="pickled weights, and reading them could run code"
            if pickled
            else f"no {' and no '.join(missing)}"
            if folder.is_dir()
            else "no such folder",
            fix="convert it to safetensors first"
            if pickled
            else "make one: steerkit train adapter --out DIR",
        )
    return folder


def _download(name: str) -> Path:
    """The folder of the Hub's cache that holds the adapter, fetched if it is not there."""
    from transformers.utils import cached_file

    options = {"_raise_exceptions_for_missing_entries": False}
    try:
        config = cached_file(name, CONFIG)
        for file in (WEIGHTS, TEMPLATE, RECORD):
            cached_file(name, file, **options)
    except (OSError, ValueError) as problem:
        raise ModelError(
            f"cannot get the adapter {name!r}",
            found=(str(problem).strip().splitlines() or [type(problem).__name__])[0],
            fix="check the name, and that the Hub can be reached or the adapter is in its cache",
        ) from problem
    return Path(str(config)).parent


def _read(path: Path) -> dict[str, Any]:
    found = parse_json(path.read_bytes(), ModelError, path, expected="a JSON object")
    if not isinstance(found, dict):
        raise ModelError("not a JSON object", found=type(found).__name__, where=path)
    return found


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].casefold()


def _check_plain(hf: Any, adapter: Adapter) -> None:
    offloaded = any(parameter.device.type == "meta" for parameter in hf.parameters())
    if offloaded or getattr(hf, "is_quantized", False):
        raise ModelError(
            f"the adapter {adapter.name!r} cannot be merged into these weights",
            expected="weights in memory, in float32, bfloat16 or float16",
            found="weights on disk" if offloaded else "quantised weights",
            fix="load the base whole and unquantised, or save it once with the adapter merged",
        )


def _check_whole(peft: Any, adapted: Any, adapter: Adapter) -> None:
    """Refuse an adapter with matrices that the model has no place for, or that lacks some."""
    from safetensors import safe_open

    with safe_open(str(adapter.folder / WEIGHTS), framework="pt") as file:
        brought = set(file.keys())
    wanted = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if brought != wanted:
        extra, lacking = sorted(brought - wanted), sorted(wanted - brought)
        raise ModelError(
            f"the adapter {adapter.name!r} does not fit the model",
            expected=f"{len(wanted)} matrices",
            found=f"{len(brought)}, {len(extra)} of them without a place"
            + (f", such as {extra[0]}" if extra else "")
            + f"; {len(lacking)} are missing"
            + (f", such as {lacking[0]}" if lacking else ""),
            where=adapter.folder,
            fix="load the model that the adapter was trained on",
        )
