"""Chains on stdout: side by side or one after another, with what became of each; as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from steerkit.cli.tables import count, number, percent, table
from steerkit.errors import TaskError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from steerkit.traces import Trace, Traces

NARROWEST = 30
"""Columns that a chain needs to stand beside others."""

_REASONS = {
    "no answer": "there is no answer",
    "unreadable": "the answer cannot be read",
    "numbers": "not every number is used exactly once",
    "rule": "a step is negative or a fraction",
    "value": "the result is another one",
}


def print_json(traces: Traces) -> None:
    """A JSON array of traces, one a line."""
    lines = (json.dumps(trace.to_json(), allow_nan=False) for trace in traces)
    print("[" + ",\n ".join(lines) + "]")


def print_traces(console: Console, traces: Traces, titles: Sequence[str], samples: int) -> None:
    """Chains by prompt and sample, those under different steering beside each other.

    On a terminal too narrow for that, and where stdout is none, they follow one another.
    """
    beside = console.is_terminal and console.width // len(titles) >= NARROWEST
    for prompt, group in _by_prompt(traces, len(titles) * samples):
        _heading(console, prompt)
        for sample in range(samples):
            chains = [group[way * samples + sample] for way in range(len(titles))]
            if samples > 1:
                console.print(f"sample {sample}", style="dim")
            if beside and len(chains) > 1:
                _side_by_side(console, chains, titles)
                continue
            for title, trace in zip(titles, chains, strict=True):
                if len(titles) > 1 or title != "unsteered":
                    console.print(title, style="bold", markup=False)
                # where stdout is a file, the text keeps its own lines
                console.print(_body(trace), soft_wrap=not console.is_terminal)
                console.print(verdict(trace), soft_wrap=not console.is_terminal)
                console.print()


def print_summary(console: Console, traces: Traces, titles: Sequence[str], samples: int) -> None:
    """One row for every way of steering: how chains ended, how long and how right they were."""
    groups = [group for _, group in _by_prompt(traces, len(titles) * samples)]
    rows = []
    for way, title in enumerate(titles):
        chains = [t for group in groups for t in group[way * samples : (way + 1) * samples]]
        judged = [right for t in chains if not t.truncated and (right := is_right(t)) is not None]
        tokens = [len(trace.token_ids or ()) for trace in chains]
        rows.append(
            (
                title,
                f"{len(chains):,}",
                number(sum(tokens) / len(tokens), 1),
                f"{sum(trace.closed for trace in chains):,}",
                f"{sum(trace.truncated for trace in chains):,}",
                f"{sum(judged):,} of {len(judged):,}" if judged else "-",
                percent(sum(judged), len(judged)),
            )
        )
    columns = ("steering", "chains", "tokens", "closed", "cut off", "right", "accuracy")
    console.print(table(columns, rows))
    console.print(
        "tokens: mean per chain; right: answers to bundled puzzles, chains cut off left out",
        style="dim",
        soft_wrap=True,
    )


def verdict(trace: Trace) -> Text:
    """What became of a chain: cut off, never closed, right or wrong."""
    from rich.text import Text

    length = count(len(trace.token_ids or ()), "token")
    if trace.truncated:
        return Text(
            f"[cut off by the token limit after {length}: unfinished, raise --max-new-tokens]",
            style="yellow",
        )
    if not trace.closed:
        return Text(f"[ended after {length} without closing its thinking]", style="yellow")
    right = is_right(trace)
    if right is None:
        return Text(f"[{length}]", style="dim")
    if right:
        return Text(f"[right, {length}]", style="green")
    return Text(f"[wrong: {_REASONS[_reason(trace)]}, {length}]", style="red")


def is_right(trace: Trace) -> bool | None:
    """Whether the answer to a bundled puzzle is right; ``None`` for any other prompt."""
    reason = _reason(trace)
    return None if not reason else reason == "correct"


def _reason(trace: Trace) -> str:
    """The reason of the verifier's verdict; empty where the prompt is no bundled puzzle."""
    from steerkit.puzzles.tasks import parse_prompt

    try:
        task = parse_prompt(trace.prompt or "")
    except TaskError:
        return ""
    return task.verify(trace.answer).reason


def _by_prompt(traces: Traces, rows: int) -> Iterator[tuple[str, Traces]]:
    for first in range(0, len(traces), rows):
        yield traces[first].prompt or "", traces[first : first + rows]


def _heading(console: Console, prompt: str) -> None:
    from rich.text import Text

    console.print(Text(prompt, style="bold cyan"), soft_wrap=not console.is_terminal)


def _body(trace: Trace) -> Text:
    """The response, its thinking dimmed against its answer."""
    from rich.text import Text

    start, end = trace.thinking_bounds
    response, closing = trace.response, trace.think[1]
    text = Text(response[:start], style="dim")
    text.append(response[start:end].strip("\n"))
    if trace.closed:
        text.append(f"\n{closing}\n", style="dim")
        text.append(trace.answer, style="bold")
    return text


def _side_by_side(console: Console, chains: Sequence[Trace], titles: Sequence[str]) -> None:
    from rich import box
    from rich.console import Group
    from rich.table import Table

    made = Table(box=box.ROUNDED, border_style="dim", expand=True)
    for title in titles:
        made.add_column(title, ratio=1, header_style="bold", overflow="fold")
    made.add_row(*(Group(_body(trace), verdict(trace)) for trace in chains))
    console.print(made)
