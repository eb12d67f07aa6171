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
# # From your own thinking model to a report
#
# Every step from a model to a report that can be refuted: its own chains, labels, directions,
# layers, ranges, and the evaluation. It is written for DeepSeek-R1-Distill-Qwen-1.5B on a GPU.
# With the other line in the next cell it runs in minutes on a laptop, on the small model that
# comes with steerkit; that is how it was tested. **On DeepSeek's model it has not been run here.**

# %%
MODEL = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
# MODEL = "countdown-thinking"

# %%
import warnings
from pathlib import Path

import steerkit as sk
from steerkit.layer_choice.choice import choose_layers, select_tasks, with_ranges
from steerkit.layer_choice.scores import score_layers
from steerkit.layer_plot import plot_layer_scores
from steerkit.tasks import split_of

warnings.filterwarnings("ignore", message="IProgress not found")  # progress bars without widgets

bundled = MODEL == "countdown-thinking"
out = Path("out") / MODEL.split("/")[-1]
model = sk.load(MODEL)
model

# %% [markdown]
# What depends on the model stands in one place. The bundled model knows two kinds of puzzles, and
# its chains are labelled exactly, by a grammar. For a real model the 200 reasoning tasks that come
# with steerkit are a start; a few hundred of your own are better. Its chains are labelled by the
# bundled classifier, which is rough ([docs/annotation.md](../docs/annotation.md) says how rough):
# if you have labels of your own, or an LLM to judge, use them here.

# %%
if bundled:
    tasks = sk.read_tasks(sk.data("tasks/countdown.jsonl"))[:240]
    annotator, annotators = "grammar", ["grammar"]
    length, behaviors = 400, ["uncertainty-estimation", "backtracking"]
else:
    tasks = sk.read_tasks(sk.data("tasks/reasoning.jsonl"))
    annotator, annotators = "classifier", ["rules", "classifier"]
    length, behaviors = 1000, ["uncertainty-estimation", "backtracking"]
temperature = 1.0 if bundled else 0.6  # 0.6 is what DeepSeek recommends

by_set = {name: [] for name in ("extract", "select", "evaluate")}
for task in tasks:
    by_set[split_of(task.prompt)].append(task)
print({name: len(listed) for name, listed in by_set.items()})

# %% [markdown]
# ## 1. The model's own chains
#
# Chains of the *extract* and the *select* tasks. Those of *evaluate* are kept for the end.

# %%
written = model.generate(
    by_set["extract"] + by_set["select"], max_new_tokens=length, temperature=temperature
)
print(f"{sum(t.closed for t in written)} of {len(written)} closed")
print(f"{sum(t.truncated for t in written)} cut off at {length} tokens")

# %% [markdown]
# ## 2. Labels

# %%
traces = sk.annotate(written, annotator)
sk.write_traces(traces, out / "chains.jsonl")
print(traces.counts())
traces[0]

# %% [markdown]
# ## 3. Directions

# %%
vectors = sk.extract(model, traces, too_long="cut")
vectors.table()

# %% [markdown]
# The last column says where something speaks against a direction. Do not go on with one that is
# marked: more chains come first.
#
# ## 4. Layer and range, on the select tasks
#
# `gradient` needs one backward pass. For the causal sweep add `"sweep"` to the scores, and for
# a large model name a few layers.

# %%
scores = score_layers(model, vectors, traces, scores=("auroc", "gradient"))
choice = choose_layers(vectors, scores, "gradient")
plot_layer_scores(scores, choice.layers, score="gradient", caption=f"{model.name}, select tasks.")


# %%
def label(chains):
    """Chains with the labels of the annotator."""
    return sk.annotate(chains, annotator)


select = select_tasks(vectors, traces, by_set["select"], 24)
options = {"max_new_tokens": length, "temperature": temperature}
choice = with_ranges(choice, model, select[:12], label, limit=0.5, tolerance=0.1, **options)
choice.vectors.save(out / "vectors.safetensors")
{name: choice.ranges[name].fluent for name in behaviors}

# %% [markdown]
# ## 5. The evaluation, on tasks that nothing has seen
#
# Every control of the definition, 39 of either kind, would be `random=39, shuffled=39`; it is the
# part that takes longest. What is finished is kept in the folder: if this cell is interrupted, run
# it again and it goes on.

# %%
evaluation = sk.evaluate(
    model,
    choice.vectors,
    by_set["evaluate"][:24],
    traces=traces,
    behaviors=behaviors,
    coefficients=(-0.3, -0.15, 0.15, 0.3),
    control_tasks=8,
    random=10,
    shuffled=10,
    annotators=annotators,
    temperature=temperature,
    max_new_tokens=length,
    out=out / "evaluation",
)
evaluation.verdicts

# %%
sk.plot_dose_response(evaluation.rates, evaluation.controls, evaluation.settings)

# %% [markdown]
# ## 6. The report

# %%
page = evaluation.report()
print(page)

# %% [markdown]
# Open it in a browser. It begins with what holds and what does not, and it ends with the
# command that makes it again.
