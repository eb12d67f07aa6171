"""The page of `make contrasts` shows both signs of every contrast and behaviour."""

from __future__ import annotations

import contrasts
import pandas as pd


def test_page_pairs_the_signs() -> None:
    rows = [
        {
            "contrast": contrast,
            "behavior": "backtracking",
            "layer": 2,
            "split_half": 0.99,
            "shuffled": 0.3,
            "coefficient": sign * 0.3,
            "change": sign * 1.5,
            "low": sign * 1.5 - 0.2,
            "high": sign * 1.5 + 0.2,
            "parsed": 0.97,
        }
        for contrast in ("rest", "overall")
        for sign in (-1, 1)
    ]
    page = contrasts.markdown(pd.DataFrame(rows), 198, 0.3).splitlines()
    assert len([line for line in page if line.startswith("| `")]) == 2
    assert "-1.50 (-1.70 to -1.30) | +1.50 (+1.30 to +1.70)" in page[2]
    assert "198 held-out" in page[-1] and "`rest`" in page[-1]


def test_labels_are_those_of_the_exact_grammar() -> None:
    import steerkit as sk

    text = "3 + 7 = 10. Wait, let me try something else. Foo.\n</think>\nThe answer is 3 * 7 + 8."
    found = contrasts.labels_of(sk.Traces([sk.Trace("a", "t", text)]))
    assert found == [["deduction", "backtracking", "unparsed"]]
