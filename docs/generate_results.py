"""Fills the result blocks of the pages from benchmarks/results; run it after a benchmark.

A block stands between ``<!-- results: NAME -->`` and ``<!-- end -->``; what is between them is
never typed. Where a result is not there yet, the block says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steerkit.files import write_text_atomic

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
_FILLED = (
    "results",
    "steering",
    "directions",
    "evaluation",
    "geometry",
    "label_noise",
    "annotation",
)
PAGES = (ROOT / "README.md", *(DOCS / f"{name}.md" for name in _FILLED))
RESULTS = ROOT / "benchmarks" / "results"
_BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(text: str, results: Path = RESULTS) -> str:
    """``text`` with every block filled; ``KeyError`` for a block that nothing can fill."""

    def block(match: re.Match[str]) -> str:
        content = BLOCKS[match[2]](results)
        if content is None:
            content = f"*Not measured yet: `{MADE_BY[match[2]]}` measures it.*"
        return f"{match[1]}{content.strip()}\n{match[3]}"

    return _BLOCK.sub(block, text)


def _figure(results: Path) -> str | None:
    text = "Share of sentences of every behaviour against the coefficient, with bands of random "
    text += "and shuffled directions"
    for path, of in (
        ("real_evaluation.png", ", of a real model, plain and with an adapter that makes it think"),
        ("report/figures/dose_response.png", ""),
    ):
        if (results / path).is_file():
            return f"![{text}{of}.](benchmarks/results/{path})"
    return None


def _real_evaluation(results: Path) -> str | None:
    text = _text(results / "real_evaluation.md")
    if text is None:
        return None
    shown = [f"**{title}**\n\n{part}" if title else part for title, part in sections(text).items()]
    figure = (
        "![Share of sentences of both behaviours against the coefficient, plain and with the "
        "adapter, with bands of controls.](../benchmarks/results/real_evaluation.png)"
    )
    return "\n\n".join([figure, *(part for part in shown if part)])


def _report(results: Path) -> str | None:
    text = _text(results / "report.md")
    if text is None:
        return None
    return (
        "![Share of sentences of every behaviour against the coefficient, with bands of random and "
        "shuffled directions.](../benchmarks/results/report/figures/dose_response.png)\n\n"
        f"{text}"
    )


def _pair(results: Path) -> str | None:
    text = _text(results / "pair.md")
    if text is None:
        return None
    parts = sections(text)
    # the tables by k and by kind of task stay in pair.md
    needed = parts["Is the sentence needed?"].split("\n\nChanges in points by kind", 1)[0]
    figure = (
        "![pass@k of both models by kind of task, and the share of sentences of every "
        "behaviour.](../benchmarks/results/pair.png)"
    )
    return "\n\n".join(
        [
            parts[""],
            parts["What was aimed at"],
            figure,
            f"**Is the sentence needed?**\n\n{needed}",
            "How the two ways to do without a sentence differ, pass@k in numbers, and everything "
            "that was counted, snapshots along the reinforcement learning included: "
            "[benchmarks/results/pair.md](../benchmarks/results/pair.md).",
        ]
    )


def _real(results: Path) -> str | None:
    text = _text(results / "real.md")
    if text is None:
        return None
    parts = sections(text)
    title = next(title for title in parts if title.startswith("Directions"))
    # the tables of the other contrasts, of the plain model's texts and excerpts stay in real.md
    directions = parts[title].split("\nThe other contrasts", 1)[0].rstrip()
    plain, *adapted = re.split(r"(?=^With the adapter )", parts["Steering"], flags=re.MULTILINE)
    setting, _, table = plain.partition("\n\n")
    steering = (adapted or [table])[0].split("\n\nThe texts with most markers", 1)[0].strip()
    shown = [parts[""], f"**{title}.** {directions}", *_own_and_reference(results)]
    shown += [f"**{name}** {parts[name]}" for name in ("Does it think?",) if name in parts]
    shown += [f"**Steering.** {setting}", steering]
    return "\n\n".join(shown) + (
        "\n\nThe plain model steered, texts, directions from other chains, time and memory: "
        "[benchmarks/results/real.md](../benchmarks/results/real.md)."
    )


def _own_and_reference(results: Path) -> list[str]:
    """One line on two behaviours' directions from both sets of chains, if a run had both."""
    text = _text(results / "real.json")
    found = None if text is None else json.loads(text).get("reference")
    rows = {} if found is None else found["directions"]
    named = [name for name in ("uncertainty-estimation", "backtracking") if name in rows]
    if not named:
        return []
    cosines = ", ".join(
        "{} {cosine:.2f} ({low:.2f} to {high:.2f})".format(name, **rows[name]) for name in named
    )
    return [
        "The same model's directions from these chains and from annotated chains of "
        f"DeepSeek-R1-Distill-Qwen-1.5B, cosines with 95 % intervals: {cosines}."
    ]


def _memory(results: Path) -> str | None:
    text = _text(results / "collection_memory.json")
    if text is None:
        return None
    found: dict[str, Any] = json.loads(text)
    columns = ("chains", "thinking tokens", "spans", "seconds", "peak memory")
    lines = [_row(columns), _row(["---"] * len(columns))]
    for run in found["runs"]:
        numbers = [f"{run[key]:,}" for key in ("chains", "thinking_tokens", "spans")]
        lines.append(_row([*numbers, f"{run['seconds']:.0f}", f"{run['peak_mib']:,.0f} MiB"]))
    first = found["runs"][0]
    return "\n".join(lines) + (
        f"\n\nCollection at all {first['layers']} layers of {first['model']} "
        f"({first['source']}), one process each. Ten times the chains change the peak by "
        f"{100 * found['growth']:+.1f} %; {100 * found['within']:.0f} % are allowed."
    )


def _bench(results: Path) -> str | None:
    text = _text(results / "bench.md")
    if text is None:
        return None
    # how many, and which were missed; the tables stay in bench.md
    head = text.split("\n\nEvery figure", 1)[0].strip()
    return (
        f"{head}\n\n"
        "![Every measured figure over its target, with quartiles.]"
        "(../benchmarks/results/bench.png)\n\n"
        "What was run against what, on which machine, why targets were missed, and what was not "
        "measured: "
        "[benchmarks/results/bench.md](../benchmarks/results/bench.md)."
    )


def _pairing(results: Path) -> str | None:
    return _text(results / "pairing.md")


def _layers(results: Path, name: str = "layers") -> str | None:
    text = _text(results / f"{name}.md")
    if text is None:
        return None
    # what it took, and the sweep itself, stay in the results' page
    head = sections(text)[""].split("\n\nTime:", 1)[0].strip()
    figure = (
        "![Every score of every behaviour's direction by layer, the causal sweep last.]"
        f"(../benchmarks/results/{name}.png)"
    )
    return f"{head}\n\n{figure}"


def _published(results: Path) -> str | None:
    text = _text(results / "published.md")
    if text is None:
        return None
    return sections(text)[""].replace("](published.png)", "](../benchmarks/results/published.png)")


def _defaults(results: Path) -> str | None:
    text = _text(results / "defaults.md")
    if text is None:
        return None
    parts = sections(text)
    picture = "![Swing and accuracy lost of every candidate](defaults.png)"
    figure = (
        "![How far every method and contrast swings the behaviours, and what that costs in "
        "accuracy.](../benchmarks/results/defaults.png)"
    )
    shown = [f"**{title}.**\n\n{part}" if title else part for title, part in parts.items()]
    return "\n\n".join(shown).replace(picture, figure)


def _noise(results: Path) -> str | None:
    text = _text(results / "label_noise.md")
    if text is None:
        return None
    figure = "](../benchmarks/results/label_noise.png)"
    return re.sub(r"^# .+\n", "", text).replace("](label_noise.png)", figure)


def _agreement(results: Path) -> str | None:
    text = _text(results / "agreement.md")
    if text is None:
        return None
    parts = sections(text)
    # sentences, tokens and the F1 of every label stay in the results' page
    title = next(title for title in parts if title.startswith("Spans"))
    more = "[benchmarks/results/agreement.md](../benchmarks/results/agreement.md)"
    return (
        f"{parts['']}\n\n{parts[title]}\n\n"
        "The spans are given here. Sentences that annotators find themselves, tokens, and F1 by "
        f"label: {more}."
    )


BLOCKS: dict[str, Callable[[Path], str | None]] = {
    "figure": _figure,
    "pair": _pair,
    "real": _real,
    "memory": _memory,
    "bench": _bench,
    "pairing": _pairing,
    "layers": _layers,
    "report": _report,
    "real_evaluation": _real_evaluation,
    "defaults": _defaults,
    "real_defaults": lambda results: _text(results / "real_defaults.md"),
    "noise": _noise,
    "agreement": _agreement,
    "layers_smollm2": lambda results: _layers(results, "layers_smollm2"),
    "layers_qwen": lambda results: _layers(results, "layers_qwen2.5"),
    "layers_qwen_thinking": lambda results: _layers(results, "layers_qwen2.5_thinking"),
    "published": _published,
}
# measured with the window and contrast that were the defaults then
_LAYERS = "python benchmarks/layers.py --window 1,10 --contrast rest --model ~/.cache/steerkit/"
_QWEN = f"{_LAYERS}qwen2.5-coder-1.5b-instruct"
MADE_BY = {name: f"make {name}" for name in BLOCKS} | {
    "figure": "make report",
    "real_evaluation": "make real-evaluation",
    "real_defaults": "make real-defaults",
    "layers_smollm2": (
        f"{_LAYERS}smollm2-135m-instruct --layers 5,11,17,23,27 --count 3 --tokens 60 "
        "--chains 8 --step-chains 2 --read 128"
    ),
    "layers_qwen": (
        f"{_QWEN} --layers 5,9,13,16,19,22,25 --count 4 --tokens 80 --chains 10 "
        "--step-chains 3 --read 200"
    ),
    "layers_qwen_thinking": (
        f"{_QWEN} --adapter qwen2.5-coder-1.5b-thinking --layers 5,9,13,16,19,22,25 "
        "--coefficient 0.2 --count 20 --tokens 100"
    ),
}


def sections(text: str) -> dict[str, str]:
    """Text of a Markdown page by second-level heading; what stands before them under ``""``."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    head = re.sub(r"^# .+\n", "", parts[0])
    return {"": head.strip()} | {
        title: part.strip() for title, part in zip(parts[1::2], parts[2::2], strict=True)
    }


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    for path in PAGES:
        write_text_atomic(path, page(path.read_text(encoding="utf-8")))
