"""``python -m steerkit`` is the command ``steerkit``."""

import sys

from steerkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
