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
# # Which layer, how strong, and is it real?
#
# The [first notebook](01_first_steering_vector.py) ends with a direction that seems to work. Three
# questions are left, and this notebook answers them in order:
#
# 1. At which layer should the model be pushed?
# 2. How hard can it be pushed before its text falls apart?
# 3. Does the push do what its name says, and does it do more than any other push would?
#
# The first two are answered on the *select* tasks, the third on the *evaluate* tasks. Extraction
# used the third set of tasks, *extract*. A number that was tuned on a task proves nothing on it.
#
# It runs in a few minutes on a laptop.

# %%
import warnings
from pathlib import Path
from tempfile import mkdtemp

import steerkit as sk
from steerkit.layer_choice.choice import choose_layers, select_tasks, with_ranges
from steerkit.layer_choice.scores import score_layers
from steerkit.layer_plot import plot_layer_scores
from steerkit.tasks import split_of

warnings.filterwarnings("ignore", message="IProgress not found")  # progress bars without widgets

model = sk.load("countdown-thinking")
traces = sk.read_traces(sk.data("traces/countdown.jsonl"))
behaviors = ["uncertainty-estimation", "example-testing", "backtracking"]
vectors = sk.extract(model, traces).subset(behaviors)
vectors.table()

# %% [markdown]
# ## 1. Which layer?
#
# The honest way is to try: write chains with every layer pushed up and down, and count. That is the
# *causal sweep*. It costs generation, so cheaper scores are often used in its place. Here are two
# of them beside it.
#
# - `auroc`: does the projection on the direction foretell the behaviour? It is a correlate.
# - `gradient`: how steeply does a push raise the log-probability of the behaviour's first tokens
#   where it begins? One backward pass gives all layers.
# - `sweep`: the share of sentences of the behaviour, pushed up minus pushed down.

# %%
tasks = sk.read_tasks(sk.data("tasks/countdown.jsonl"))
select = select_tasks(vectors, traces, tasks, 16)
scores = score_layers(
    model,
    vectors,
    traces,
    scores=("auroc", "gradient", "sweep"),
    coefficient=0.2,
    tasks=select,
    annotate=sk.annotate,
    max_new_tokens=400,
)
choice = choose_layers(vectors, scores, "sweep")
caption = f"{model.name}, {len(select)} select tasks, step 0.2."
plot_layer_scores(scores, choice.layers, score="sweep", caption=caption)

# %% [markdown]
# The intervals of the sweep are wide: sixteen tasks tell a layer that works from one that does
# not, and do not rank neighbours. Where the intervals overlap, the choice among these layers is
# free. `make layers` does this with more tasks and measures how well each cheap score foretells the
# sweep; the result stands in [docs/directions.md](../docs/directions.md).
#
# ## 2. How strong?
#
# A range is found by bisection, on the select tasks. Inside the *fluent* range chains close as
# often as unsteered ones, the annotator knows their sentences, and nothing is repeated more than
# before. Inside the *free* range accuracy is kept as well. It is often much narrower: a model that
# needs a behaviour to find answers loses them when the behaviour goes.

# %%
choice = with_ranges(
    choice, model, select[:12], sk.annotate, limit=0.5, tolerance=0.1, max_new_tokens=400
)
for name in behaviors:
    found = choice.ranges[name]
    print(
        f"{name}, layer {choice.layers[name]}: fluent {found.fluent.low:+.2f} to "
        f"{found.fluent.high:+.2f}, free {found.free.low:+.2f} to {found.free.high:+.2f}"
    )
choice.ranges["backtracking"].table.round(2)

# %% [markdown]
# ## 3. Is it real?
#
# Now the tasks of the third set. `evaluate` writes chains without steering, along each behaviour's
# direction at several coefficients, and along *controls* of the same length at the coefficients at
# which the claim is made:
#
# - random directions: what does any push of this size do?
# - directions from labels that were shuffled within each chain: what does the recipe do when the
#   labels mean nothing?
# - the directions of the other behaviours: does steering one behaviour move another?
#
# An effect counts when it exceeds every control in the claimed direction and the controls' mean
# effect is at most a quarter of it. So the claim can fail.
#
# The coefficients of the claim are fixed before any of these tasks is run: the largest of those
# below that the fluent range allows.
#
# Few tasks and few controls are used here, so that the notebook is quick. A push that does nothing
# exceeds ten random and ten shuffled directions by luck in one case of 21;
# `steerkit evaluate --full` takes 39 of either kind.

# %%
evaluation = sk.evaluate(
    model,
    choice.vectors,
    [task for task in tasks if split_of(task.prompt) == "evaluate"][:24],
    traces=traces,
    behaviors=["example-testing", "backtracking"],
    coefficients=(-0.3, -0.15, 0.15, 0.3),
    control_tasks=8,
    random=10,
    shuffled=10,
    max_new_tokens=400,
    out=Path(mkdtemp()) / "evaluation",
)
evaluation.verdicts

# %% [markdown]
# One row a claim. `holds` is the conclusion, and the columns before it are the conditions it rests
# on. A claim that does not hold is not a failure of the notebook: with twenty-four tasks an effect
# that is real can miss, above all for a behaviour that is rare.
#
# The dose-response curves show the same at every coefficient, with the controls beside them.

# %%
sk.plot_dose_response(evaluation.rates, evaluation.controls, evaluation.settings)

# %% [markdown]
# Steering one behaviour moves others too. Each row is a steered behaviour, each column a behaviour
# that was counted.

# %%
sk.plot_specificity(evaluation.specificity)

# %% [markdown]
# And what it costs. Read this beside every rate: a model that writes less, repeats itself or
# gets fewer answers right is not the same model with another habit.

# %%
costs = evaluation.side_effects
costs[costs.kind.isin(["baseline", "steered"])].round(3)

# %% [markdown]
# ## The report
#
# Everything above on one page that can be sent to somebody, with the settings and the command that
# makes it again.

# %%
print(evaluation.report())

# %% [markdown]
# ## What can go wrong
#
# - **Choosing on the tasks that are judged by.** Layer, range and coefficient come from the
#   *select* tasks. `evaluate` refuses tasks that the vectors have seen.
# - **The annotator judges itself.** Here the grammar is exact. With a real model the annotator that
#   labelled the extraction chains should not be the only one that scores; the verdicts say who did.
# - **Many claims.** Two behaviours and two signs are four tests; p-values are adjusted for them.
# - **A layer that was lucky.** The best of six noisy layers looks better than it is. The evaluation
#   on other tasks takes that away again.
#
# Next: [the same for a thinking model of your own](03_from_your_own_thinking_model_to_a_report.py).
