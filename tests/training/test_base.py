import hashlib

import pytest
import torch
from safetensors.torch import load_file

from steerkit.errors import TrainingError
from steerkit.loading import load
from steerkit.training.base import Base
from steerkit.training.model import training_device
from tests.tiny import tiny_hf


def test_a_base_is_named_by_its_folder_and_the_hash_of_its_weights(base_folder):
    base = Base.find(base_folder)
    content = (base_folder / "model.safetensors").read_bytes()
    assert base.name == "tiny-base" and base.sha256 == hashlib.sha256(content).hexdigest()
    model = base.load(torch.device("cpu"))
    assert model.name == "tiny-base" and model.dtype == torch.float32
    assert all(parameter.requires_grad for parameter in model.hf.parameters())
    assert not any(module.training for module in model.hf.modules())


def test_export_changes_nothing_but_the_weights_in_the_folder(base_folder, tmp_path):
    base = Base.find(base_folder)
    model = base.load(torch.device("cpu"))
    with torch.no_grad():
        for parameter in model.hf.parameters():
            parameter += 1e-5  # below the grain of float16
    before = {name: p.detach().clone() for name, p in model.hf.named_parameters()}
    base.snapshot(model, tmp_path / "snapshots" / "step-0001")
    folder = tmp_path / "snapshots" / "step-0001"
    base.snapshot(model, folder)  # once more, as a resumed run does
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == before.keys()
    for name, parameter in model.hf.named_parameters():
        assert torch.equal(parameter, before[name])
        assert torch.equal(stored[name], before[name].half())
    assert any(not torch.equal(p, p.half().float()) for p in before.values())
    for file in base_folder.iterdir():
        if file.name != "model.safetensors":
            assert (folder / file.name).read_bytes() == file.read_bytes()
    assert load(folder).tokenizer_hash == load(base_folder).tokenizer_hash


def test_what_is_no_base_is_refused(base_folder, tmp_path):
    with pytest.raises(TrainingError, match=r"no model 'nowhere' .*countdown-thinking"):
        Base.find("nowhere")
    hf = tiny_hf()
    hf.generation_config.eos_token_id = [2, 5]
    hf.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((base_folder / name).read_bytes())
    with pytest.raises(TrainingError, match=r"one end token .*found \[2, 5\]"):
        Base.find(tmp_path).load(torch.device("cpu"))


def test_devices():
    assert training_device(None) == torch.device("cpu")  # conftest.py hides GPUs
    assert training_device("cpu") == torch.device("cpu")
    for name in ("cuda", "banana"):
        with pytest.raises(TrainingError, match=f"cannot train on '{name}'"):
            training_device(name)
