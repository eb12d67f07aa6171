"""The scripts in benchmarks/ import each other by their bare names, as a script run there does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
