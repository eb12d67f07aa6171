"""Layer choice: at which layer a direction does most, by cheap scores and by steering itself.

============  =============================================================  ==================
score         what it is                                                     cost
============  =============================================================  ==================
``auroc``     how well the projection before a span foretells its label      one forward pass
``gradient``  slope of the openers' log-probability along the direction      one backward pass
              (own boundaries minus others), for all layers at once          a label
``gain``      the same for a real steering step, prompt included             a forward pass a
``effect``    KL(unsteered || steered) of that step, less that of random     layer and label
              steps of the same length
``published`` what arXiv 2506.18167 used: see :mod:`.openers`                one backward pass
``sweep``     behaviour pushed up minus pushed down, in written chains       generation
============  =============================================================  ==================

The last is the judge of the others (:mod:`.causal`). ``gradient`` and ``published`` push at
thinking positions only; ``gain``, ``effect`` and ``sweep`` at every position, the prompt's among
them, as generation does by default.
"""

from steerkit.layer_choice.foresight import area_under_roc, areas, auroc, suggested_layer

__all__ = ["area_under_roc", "areas", "auroc", "suggested_layer"]
