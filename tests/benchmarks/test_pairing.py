"""The saving is that of a planted correlation, and one where there is none."""

from __future__ import annotations

import numpy as np
import pairing
import pandas as pd
import pytest


def planted(shared: float, tasks: int = 4000) -> list[pd.DataFrame]:
    """Outcomes whose noise is shared to this part: plain, same noise, other noise."""
    draw = np.random.default_rng(0)
    task, noise, mine, other = draw.normal(size=(4, tasks))
    same = shared**0.5 * noise + (1 - shared) ** 0.5 * mine
    return [
        pd.DataFrame(dict.fromkeys(pairing.MEASURES, task + part)) for part in (noise, same, other)
    ]


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9])
def test_saving_is_the_ratio_of_variances(shared: float) -> None:
    found = pairing.compare(*planted(shared)).iloc[0]
    # Var(noise - same) = 2 - 2 sqrt(shared), Var(noise - other) = 2
    assert found["saving"] == pytest.approx(1 / (1 - shared**0.5), rel=0.1)
    assert found["low"] < 1 / (1 - shared**0.5) < found["high"]
    assert found["other_noise"] == pytest.approx(0.5, abs=0.05)
    assert found["same_noise"] == pytest.approx((1 + shared**0.5) / 2, abs=0.05)


def test_equal_outcomes_save_everything_and_the_page_says_so() -> None:
    plain, _, other = planted(0.5, 50)
    table = pairing.compare(plain, plain, other)
    table.insert(0, "coefficient", 0.0)
    assert np.isinf(table["saving"]).all() and (table["identical"] == 1).all()
    page = pairing.markdown(table, 50)
    assert page.count("| all |") == 3 and "50 held-out tasks" in page
