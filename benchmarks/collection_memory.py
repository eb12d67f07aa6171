"""Peak memory of collection at 200 and at 2,000 chains: ``python benchmarks/collection_memory.py``.

Each measurement is a child process of its own that loads a model, collects moments over
that many chains at every layer, and reports the high-water mark of its resident memory.
The bundled model and chains are used when they are there (the chains repeated under new
names), otherwise a Qwen2 of random weights and synthetic chains. The result is written to
``benchmarks/results/collection_memory.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "collection_memory.json"
SIZES = (200, 2000)
TOLERANCE = 0.05
WORDS = [f"word{i}" for i in range(500)]


def random_model() -> Any:
    """A Qwen2 of random weights, hidden size 256, 8 layers, with a tokenizer of words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    import steerkit as sk

    torch.manual_seed(0)
    names = ["<unk>", "<pad>", "<eos>", "<think>", "</think>", ".", *WORDS]
    tokenizer = Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    config = Qwen2Config(
        vocab_size=len(names),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    )
    hf = Qwen2ForCausalLM(config).eval()
    return sk.load(hf, tokenizer=fast, name="random-qwen2-256x8")


def synthetic_traces(n: int) -> Any:
    """Chains of 150 to 400 words, eight spans each, over n / 2 tasks."""
    import random

    from steerkit.traces import Span, Trace, Traces

    labels = ("deduction", "backtracking", "uncertainty-estimation", "example-testing")
    rng = random.Random(0)
    traces = []
    for i in range(n):
        text, spans = "<think> ", []
        for _ in range(8):
            sentence = " ".join(rng.choices(WORDS, k=rng.randint(18, 50)))
            spans.append(Span(len(text), len(text) + len(sentence), rng.choice(labels)))
            text += sentence + " "
        traces.append(
            Trace(
                id=f"chain-{i}",
                task_id=f"task-{i // 2}",
                prompt=" ".join(rng.choices(WORDS, k=12)),
                response=text + "</think> word1 .",
                spans=tuple(spans),
            )
        )
    return Traces(traces)


def measure(n: int) -> dict[str, Any]:
    """Collect over n chains in this process; seconds, tokens and peak memory."""
    import steerkit as sk
    from steerkit.errors import ResourceError

    try:
        model = sk.load("countdown-thinking", device="cpu")
        base = sk.read_traces(sk.data("traces/countdown.jsonl"))
        source = "bundled model and chains"
    except ResourceError:
        model, base, source = random_model(), synthetic_traces(200), "random model and chains"
    traces = sk.Traces(
        # every chain a task of its own, so that what is kept by task grows as it would
        replace(base[i % len(base)], id=f"chain-{i}", task_id=f"task-{i}", prompt=f"Use {i}, 7.")
        for i in range(n)
    )
    started = time.perf_counter()
    moments = sk.collect(model, traces)
    seconds = time.perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    return {
        "chains": n,
        "source": source,
        "model": model.name,
        "layers": len(moments.layers),
        "d_model": moments.d_model,
        "thinking_tokens": moments.tokens,
        "spans": int(moments.counts[0].sum()),
        "seconds": round(seconds, 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child)))
        return 0
    runs = []
    for n in SIZES:
        child = subprocess.run(
            [sys.executable, __file__, "--child", str(n)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        runs.append(json.loads(child.stdout.splitlines()[-1]))
        print(runs[-1])
    from real_measures import code_digest

    growth = runs[-1]["peak_mib"] / runs[0]["peak_mib"] - 1
    result = {
        "what": "peak resident memory of collection at every layer, one process each",
        "runs": runs,
        "growth": round(growth, 4),
        "within": TOLERANCE,
        "holds": abs(growth) <= TOLERANCE,
        "code": code_digest()[:12],
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "python": platform.python_version(),
        },
        "versions": {p: version(p) for p in ("torch", "transformers", "transformer-lens")},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"growth {growth:+.2%}, allowed {TOLERANCE:.0%}: {options.out}")
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
