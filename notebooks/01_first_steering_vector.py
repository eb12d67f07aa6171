# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your first steering vector
#
# A *thinking model* writes a chain of thought before it answers. In that chain it does
# different things: it takes a step, it doubts, it tries an example, it goes back. This
# notebook finds the direction in the model's activations that goes with one of these
# behaviours, *backtracking*, and then turns it down and up while the model thinks.
#
# It takes about five minutes to read and runs in about a minute on a laptop. Nothing is
# downloaded: the model, its chains and its tasks come with steerkit.

# %%
import warnings

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML

import steerkit as sk
from steerkit.statistics import mean_interval
from steerkit.tasks import split_of

warnings.filterwarnings("ignore", message="IProgress not found")  # progress bars without widgets

# %% [markdown]
# ## 1. A model and its chains
#
# `countdown-thinking` is a very small model that was trained to solve two kinds of puzzles,
# reaching a number by calculating with others and finding the rule behind examples, and to
# think aloud in English while it does so. It often gets the answer wrong. That does not
# matter here: what counts is that every sentence it writes can be labelled exactly, so that
# behaviours can be counted.

# %%
model = sk.load("countdown-thinking")
traces = sk.read_traces(sk.data("traces/countdown.jsonl"))
print(model)
print(traces)

# %% [markdown]
# A `Trace` is one task and one chain. Each coloured piece is a *span*: a sentence with
# its behaviour, named in the legend below the chain. Text with a dashed line is
# *unparsed*: the model wrote something that the annotator does not know.

# %%
example = next(t for t in traces if any(span.label == "backtracking" for span in t.spans))
example

# %% [markdown]
# ## 2. Extract a direction for every behaviour
#
# `extract` runs the chains through the model and reads the *residual stream*, the vector
# that each layer passes on to the next. A behaviour's direction at a layer is
#
# > the mean just before the spans of that behaviour, minus the mean of the other
# > behaviours' means.
#
# *Just before* is the token that ends the sentence ahead: there the model decides what comes.
#
# The tasks are divided into three sets that never mix. Half of them serve for the
# directions, a quarter for choosing a layer, and a quarter is never read, so that we can
# test on it below.

# %%
vectors = sk.extract(model, traces)
vectors

# %% [markdown]
# How to read the table. All numbers are those of the suggested layer.
#
# - `norm`: how long the difference is, as a share of the typical length of an activation.
# - `split_half`: the cosine between the directions from two halves of the tasks. Near 1
#   means that other chains would have given the same direction.
# - `split_half_shuffled`: the same after the labels were shuffled within each chain. If it
#   is as high as `split_half`, the labels had nothing to do with it.
# - `auroc`: can the direction foretell the behaviour at the token *before* it begins? 0.5
#   is chance, 1 is perfect.
# - `layer`: where the score named by `chosen_by` is largest. `gradient` is how steeply the
#   direction makes the behaviour's own first tokens likelier. It is a suggestion, not a
#   proof that steering works best there.
#
# The figure shows the same numbers at every layer.

# %%
sk.plot_layers(vectors)

# %% [markdown]
# ## 3. Steer one task
#
# Steering adds the direction, times a coefficient, to the residual stream while the model
# reads and writes. A coefficient of 1 is as long as the mean activation of that layer, so
# 0.4 is a strong push. Negative coefficients push the other way, and 0 changes nothing:
# that chain is the unsteered one, to the last bit.
#
# The tasks below belong to the third set: neither the directions nor the layers have seen
# them. All three chains of a task are written with the same randomness. Where they differ,
# steering made the difference. They are labelled by `annotate`, which knows every sentence
# that this model was taught.

# %%
backtracking = vectors["backtracking"]
coefficients = [-0.4, 0.0, 0.4]
tasks = sk.read_tasks(sk.data("tasks/countdown.jsonl"))
held_out = [task for task in tasks if split_of(task.prompt) == "evaluate"]

pair = held_out[:2]
chains = model.generate(
    [task for task in pair for _ in coefficients],
    steer=[c * backtracking for _ in pair for c in coefficients],
)
chains = sk.annotate(chains)
cell = '<td style="width: 33%; vertical-align: top; text-align: left"><i>{}</i>{}</td>'
rows = []
for i in range(len(pair)):
    beside = zip(coefficients, chains[3 * i : 3 * i + 3], strict=True)
    cells = [cell.format(f"coefficient {c:g}", trace._repr_html_()) for c, trace in beside]
    rows.append(f"<tr>{''.join(cells)}</tr>")
HTML(f"<table>{''.join(rows)}</table>")

# %% [markdown]
# ## 4. Does it hold? Count it over forty tasks
#
# Three chains show nothing; a difference may be luck. So we write chains for forty tasks
# and count the backtracking sentences of each.
#
# We need a control as well. *Any* push changes a model a little. `backtracking.random(0)`
# is a random direction of the same length: if it did the same as ours, our direction would
# not be special.

# %%
many = held_out[:40]
control = backtracking.random(0)
conditions = [("none", 0.0, None)]
for name, direction in (("backtracking", backtracking), ("random", control)):
    conditions += [(name, c, c * direction) for c in (-0.4, 0.4)]

counted = []
for name, coefficient, term in conditions:
    steered = sk.annotate(model.generate(many, steer=term))
    for trace in steered:
        labels = [span.label for span in trace.spans]
        counted.append(
            {
                "task": trace.task_id,
                "direction": name,
                "coefficient": coefficient,
                "backtracking": labels.count("backtracking"),
                "sentences": len(labels),
                "unparsed": labels.count("unparsed"),
                "closed": trace.closed,
            }
        )
counts = pd.DataFrame(counted)
by_condition = counts.groupby(["direction", "coefficient"], sort=False)
means = by_condition[["backtracking", "sentences", "unparsed", "closed"]].mean()
means.round(2)

# %% [markdown]
# `closed` is the share of chains that ended their thinking within the model's context.
# Look at it, and at `unparsed`, before you believe a change in behaviour: a model that
# writes nonsense does not go back either.
#
# Now the change that each push makes on the same task, with an interval that holds the
# true mean in 95 of 100 cases (by resampling the tasks).

# %%
table = counts.pivot(index="task", columns=["direction", "coefficient"], values="backtracking")
unsteered = table["none", 0.0]
figure, axes = plt.subplots(figsize=(6.5, 3.6))
for name, color, shift in (("backtracking", "#D55E00", -0.012), ("random", "#777777", 0.012)):
    for coefficient in (-0.4, 0.4):
        change = mean_interval(table[name, coefficient] - unsteered)
        print(
            f"{name:12} {coefficient:+.1f}: {change.value:+.2f} sentences per chain "
            f"({change.low:+.2f} to {change.high:+.2f})"
        )
        axes.errorbar(
            coefficient + shift,
            change.value,
            [[change.value - change.low], [change.high - change.value]],
            color=color,
            marker="o",
            capsize=4,
            label=name if coefficient < 0 else None,
        )
axes.axhline(0, color="black", linewidth=0.8, linestyle=":")
axes.set(
    xlabel="coefficient (in mean norms of the residual stream)",
    ylabel="change in backtracking\nsentences per chain",
    xlim=(-0.55, 0.55),
    xticks=[-0.4, 0, 0.4],
    title=f"{len(many)} held-out tasks, layer {backtracking.layer}, 95 % intervals",
)
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
figure.tight_layout()

# %% [markdown]
# One random direction and forty tasks are a first look. `make report` does the same over
# 240 tasks of the third set and 78 control directions; its result stands in
# `docs/evaluation.md`.
#
# ## 5. Keep it
#
# One file holds the directions and where they came from. It can be used in the shell:
#
#     steerkit generate "Use 3, 7, 8 to make 29." --steer backtracking=-0.3,0,0.3
#
# reads `out/vectors.safetensors`, which is also what `steerkit extract` writes.

# %%
from pathlib import Path
from tempfile import mkdtemp

path = vectors.save(Path(mkdtemp()) / "vectors.safetensors")
again = sk.read_vectors(path)
print(path, again["backtracking"].digest == backtracking.digest)

# %% [markdown]
# ## What can go wrong
#
# - **Too large a coefficient.** Beyond some point the text falls apart, and then every
#   behaviour becomes rarer. Watch `closed`, `unparsed` and the length of chains, or simply
#   read a few.
# - **A direction that is not about the behaviour.** Look at `split_half` beside
#   `split_half_shuffled`, and always run a random direction.
# - **Behaviours that the task needs.** A model that cannot go back cannot search. Fewer
#   backtracking sentences can mean fewer right answers.
# - **Testing on the tasks that were used to extract.** `split_of(task.prompt)` tells which
#   set a task belongs to; test on `evaluate` only.
# - **The wrong layer.** The suggested layer is where the direction should move the behaviour
#   most, by its slope. Another may steer better: `(0.4 * backtracking).at(layer=3)`, or let
#   `steerkit layers` steer at each of them.
# - **Chains cut off by the token limit.** `trace.truncated` says so. Such a chain is
#   unfinished; it did not fail to answer.
#
# Next: [the nouns and their exact definitions](../docs/concepts.md) and
# [the same with a real thinking model](../docs/real_thinking_model.md).
