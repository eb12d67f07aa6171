"""Is collection over real chains quicker than the way of the paper?

The paper's way (arXiv 2506.18167): one chain at a time through the whole model with
``output_hidden_states=True``, then the mean of every span at every layer. steerkit's: `collect`,
in batches packed by length, with all that extraction needs besides (replicates, halves, shuffles,
norms). Both start from the same annotated chains and align them to tokens themselves. `middle`
reads layers up to the middle only (0 to n // 2, more than half of a shallow model); the paper's
way still runs the whole model.

The targets were set for 100 real chains, uncut: those of the folder that STEERKIT_REFERENCE
names, or else the bundled ones in plain English. The other rows read the bundled model's own
chains, or the beginnings of a few real ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_cases import Aim, Case, Context, Measured, Unavailable
from bench_contenders import twin
from bench_contest import subject_of
from bench_repetitions import interleave, settler, timed
from bench_subjects import BUNDLED, QWEN, SMOLLM2, THINK, folder_of
from reference import CHAINS, head

import steerkit as sk
from steerkit.positions import Window

NAME = "collection"
TITLE = "Collection over real chains against the paper's way"
TARGETS = {"all layers": 0.85, "up to the middle": 0.5}
WHOLE = 100
SETTINGS: dict[str, dict[str, int]] = {
    BUNDLED.name: {"chains": 200},
    SMOLLM2.name: {"chains": WHOLE},
    QWEN.name: {"chains": 16, "tokens": 400},
}
"""Chains, and tokens read of each (all, where none are named), on a CPU. A GPU reads four times as
many, but never more than there are real ones."""
QUICK = {"chains": 6}
FEWER = {SMOLLM2.name: 3, QWEN.name: 3}


@dataclass
class SpanSums:
    """What the paper's way keeps: for every label the sum of its span means, and their number."""

    labels: list[str]
    sums: Any  # float64 [label, layer, d_model]
    counts: dict[str, int]

    def means(self) -> Any:
        """``[label, layer, d_model]``."""
        import torch

        numbers = torch.tensor([max(self.counts[label], 1) for label in self.labels])
        return self.sums / numbers[:, None, None]


def cases(device: str, quick: bool, repetitions: int) -> list[Case]:
    """Every layer and up to the middle; quickly, on the bundled model alone."""
    found = []
    for subject in (BUNDLED,) if quick else (BUNDLED, SMOLLM2, QWEN):
        setting: dict[str, Any] = dict(QUICK if quick else SETTINGS[subject.name])
        if device != "cpu" and not quick:
            setting["chains"] *= 4
        if subject is not BUNDLED:
            setting["chains"] = min(setting["chains"], WHOLE)
            setting["from"] = "bundled" if reference_chains() is None else "reference"
        fewer = FEWER.get(subject.name, repetitions) if device == "cpu" else repetitions
        found += [
            Case(
                NAME,
                subject.name,
                f"{variant}, {described(setting)}",
                device,
                (Aim("steerkit collect", ("paper's way",), target, agrees="means"),),
                min(repetitions, fewer),
                setting,
            )
            for variant, target in TARGETS.items()
        ]
    return found


def described(setting: Mapping[str, Any]) -> str:
    """Which chains a row reads, as its title says it."""
    cut = f"cut at {setting['tokens']} tokens" if "tokens" in setting else "uncut"
    if "from" not in setting:
        return f"{setting['chains']} bundled chains"
    return f"{setting['chains']} real chains {cut}"


def reference_chains() -> Path | None:
    """The annotated chains of the folder that STEERKIT_REFERENCE names, if they are there."""
    named = os.environ.get("STEERKIT_REFERENCE")
    file = Path(named) / CHAINS if named else None
    return file if file is not None and file.is_file() else None


def chains_of(case: Case, model: sk.ThinkingModel) -> sk.Traces:
    """The chains of a case; :class:`Unavailable` where real ones have gone since it was made."""
    setting = case.setting
    if "from" not in setting:
        return sk.read_traces(sk.data("traces/countdown.jsonl"))[: setting["chains"]]
    if setting["from"] == "bundled":
        traces = sk.read_traces(sk.data("traces/reasoning.jsonl"))
    else:
        file = reference_chains()
        if file is None:
            raise Unavailable("the chains of STEERKIT_REFERENCE are not there any more")
        traces, _ = sk.read_tagged(file)
    chosen = traces[: setting["chains"]]
    if "tokens" not in setting:
        return chosen
    return sk.Traces(head(trace, model, setting["tokens"]) for trace in chosen)


def one_by_one(model: sk.ThinkingModel, hf: Any, chains: sk.Traces, layers: list[int]) -> SpanSums:
    """The paper's way: a full forward pass a chain, all hidden states, a mean a span."""
    import torch

    labels = sorted({span.label for trace in chains for span in trace.spans} - {"unparsed"})
    sums = torch.zeros(len(labels), len(layers), model.d_model, dtype=torch.float64)
    sums = sums.to(model.device)
    counts = dict.fromkeys(labels, 0)
    overall = torch.zeros(len(layers), model.d_model, device=model.device)
    window = Window()
    with torch.no_grad():
        for trace in chains:
            aligned = model.align(trace)
            ids = torch.tensor([aligned.ids], device=model.device)
            states = hf(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
            hidden = torch.stack([states[layer + 1][0] for layer in layers]).float()
            start, end = aligned.thinking
            overall += hidden[:, start:end].mean(dim=1)
            for first, last, label in aligned.spans:
                tokens = window.tokens(first, last)
                if len(tokens):
                    mean = hidden[:, tokens.start : tokens.stop].mean(dim=1)
                    sums[labels.index(label)] += mean
                    counts[label] += 1
    return SpanSums(labels, sums.cpu(), counts)


def packed(model: sk.ThinkingModel, chains: sk.Traces, layers: list[int]) -> SpanSums:
    """steerkit's collection, brought to the form of the other."""
    import torch

    moments = sk.collect(model, chains, layers=layers)
    order = sorted(moments.labels)
    rows = [moments.labels.index(label) for label in order]
    sums = torch.stack(
        [moments.layer_sums(i)[0, : len(moments.labels)] for i in range(len(layers))], dim=1
    )
    counts = {label: int(moments.counts[0, moments.labels.index(label)]) for label in order}
    return SpanSums(order, sums[rows], counts)


def agreement(ours: SpanSums, theirs: SpanSums, n_layers: int, layers: list[int]) -> str:
    """How far the means of spans are apart, in words; without the last layer, which Hugging
    Face gives after the final norm."""
    if ours.counts != theirs.counts:
        return f"spans differ: {ours.counts} against {theirs.counts}"
    compared = [i for i, layer in enumerate(layers) if layer < n_layers - 1]
    a, b = ours.means()[:, compared], theirs.means()[:, compared]
    apart = float(((a - b).norm(dim=-1) / b.norm(dim=-1).clamp(min=1e-12)).max())
    return f"{sum(ours.counts.values())} spans, means within {apart:.0e} of each other"


def measure(case: Case, context: Context) -> Measured:
    """Both ways in turns, on the same weights."""
    import torch

    subject = subject_of(case)
    folder = folder_of(subject.name, context)
    torch.set_num_threads(context.threads)
    # nothing is generated, so tokens need not agree: real models in the format a user gets
    dtype = subject.dtype if subject is BUNDLED else "auto"
    model = sk.load(str(folder), think=THINK, dtype=dtype, device=context.device)
    chains = chains_of(case, model)
    model.residual.detach()
    hf = twin(model.hf)
    model.residual.attach()
    whole = case.variant.startswith("all layers")
    last = model.n_layers - 1 if whole else model.n_layers // 2
    layers = list(range(last + 1))
    found = agreement(
        packed(model, chains, layers), one_by_one(model, hf, chains, layers), model.n_layers, layers
    )
    settle = settler(context.device)
    seconds = interleave(
        {
            "steerkit collect": lambda: timed(lambda: packed(model, chains, layers), settle),
            "paper's way": lambda: timed(lambda: one_by_one(model, hf, chains, layers), settle),
            "alignment alone": lambda: timed(lambda: [model.align(trace) for trace in chains]),
        },
        case.repetitions,
        lambda line: print(f"{case.key} {line}", file=sys.stderr, flush=True),
    )
    lengths = [len(model.align(trace).ids) for trace in chains]
    source = f"{len(chains)} chains ({case.setting.get('from', 'bundled')})"
    form = str(model.hf.dtype).removeprefix("torch.")
    note = f"{form}, {source}, {sum(lengths)} tokens, {min(lengths)} to {max(lengths)} each"
    return Measured(
        seconds, {"means": found}, notes=[f"{note}; layers 0 to {last} of {model.n_layers}"]
    )
