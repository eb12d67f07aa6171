"""steerkit: find, prove and steer the reasoning behaviours of thinking models.

The public names are imported when they are first used, so that ``import steerkit`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from steerkit.annotation import agree as agree
    from steerkit.annotation import annotate as annotate
    from steerkit.annotation import read_tagged as read_tagged
    from steerkit.annotation import shuffle_labels as shuffle_labels
    from steerkit.behaviors import Behavior as Behavior
    from steerkit.behaviors import declare as declare
    from steerkit.calibration import calibrate as calibrate
    from steerkit.chain_statistics import describe_chains as describe_chains
    from steerkit.chain_statistics_plot import plot_chain_statistics as plot_chain_statistics
    from steerkit.chat_log import read_chat_log as read_chat_log
    from steerkit.collection import collect as collect
    from steerkit.comparison import compare_directions as compare_directions
    from steerkit.comparison_plot import plot_comparison as plot_comparison
    from steerkit.cosine_plot import plot_cosines as plot_cosines
    from steerkit.direction import Direction as Direction
    from steerkit.errors import SteerkitError as SteerkitError
    from steerkit.evaluation.dose_response_plot import plot_dose_response as plot_dose_response
    from steerkit.evaluation.experiment import evaluate as evaluate
    from steerkit.evaluation.record import Evaluation as Evaluation
    from steerkit.evaluation.record import read_evaluation as read_evaluation
    from steerkit.evaluation.side_effect_plot import plot_side_effects as plot_side_effects
    from steerkit.evaluation.specificity_plot import plot_specificity as plot_specificity
    from steerkit.extraction import extract as extract
    from steerkit.generation import generate as generate
    from steerkit.geometry import cosines as cosines
    from steerkit.lens import logit_lens as logit_lens
    from steerkit.loading import load as load
    from steerkit.method_comparison import compare_methods as compare_methods
    from steerkit.models import ThinkingModel as ThinkingModel
    from steerkit.moments import Moments as Moments
    from steerkit.places import Mask as Mask
    from steerkit.places import Steps as Steps
    from steerkit.plain_chains import read_plain_chains as read_plain_chains
    from steerkit.plots import plot_layers as plot_layers
    from steerkit.positions import Window as Window
    from steerkit.published import read_published as read_published
    from steerkit.reliability import learning_curve as learning_curve
    from steerkit.reliability import spans_needed as spans_needed
    from steerkit.report import write_report as write_report
    from steerkit.resources import data as data
    from steerkit.schedules import Decay as Decay
    from steerkit.schedules import Gate as Gate
    from steerkit.schedules import Ramp as Ramp
    from steerkit.spans import Span as Span
    from steerkit.tasks import Task as Task
    from steerkit.tasks import read_tasks as read_tasks
    from steerkit.tasks import write_tasks as write_tasks
    from steerkit.terms import Term as Term
    from steerkit.terms import Terms as Terms
    from steerkit.traces import Trace as Trace
    from steerkit.traces import Traces as Traces
    from steerkit.traces import read_traces as read_traces
    from steerkit.traces import write_traces as write_traces
    from steerkit.vectors import SteeringVectors as SteeringVectors
    from steerkit.vectors_file import read_vectors as read_vectors
    from steerkit.viewing import show as show

_HOMES = {
    "annotation": ("agree", "annotate", "read_tagged", "shuffle_labels"),
    "behaviors": ("Behavior", "declare"),
    "calibration": ("calibrate",),
    "chain_statistics": ("describe_chains",),
    "chain_statistics_plot": ("plot_chain_statistics",),
    "chat_log": ("read_chat_log",),
    "collection": ("collect",),
    "comparison": ("compare_directions",),
    "comparison_plot": ("plot_comparison",),
    "cosine_plot": ("plot_cosines",),
    "direction": ("Direction",),
    "errors": ("SteerkitError",),
    "evaluation.dose_response_plot": ("plot_dose_response",),
    "evaluation.experiment": ("evaluate",),
    "evaluation.record": ("Evaluation", "read_evaluation"),
    "evaluation.side_effect_plot": ("plot_side_effects",),
    "evaluation.specificity_plot": ("plot_specificity",),
    "extraction": ("extract",),
    "generation": ("generate",),
    "geometry": ("cosines",),
    "lens": ("logit_lens",),
    "loading": ("load",),
    "method_comparison": ("compare_methods",),
    "models": ("ThinkingModel",),
    "moments": ("Moments",),
    "plain_chains": ("read_plain_chains",),
    "plots": ("plot_layers",),
    "places": ("Mask", "Steps"),
    "positions": ("Window",),
    "published": ("read_published",),
    "reliability": ("learning_curve", "spans_needed"),
    "report": ("write_report",),
    "resources": ("data",),
    "schedules": ("Decay", "Gate", "Ramp"),
    "spans": ("Span",),
    "tasks": ("Task", "read_tasks", "write_tasks"),
    "terms": ("Term", "Terms"),
    "traces": ("Trace", "Traces", "read_traces", "write_traces"),
    "vectors": ("SteeringVectors",),
    "vectors_file": ("read_vectors",),
    "viewing": ("show",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [*sorted(_HOME_OF), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'steerkit' has no attribute {name!r}")
    value = getattr(import_module(f"steerkit.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
