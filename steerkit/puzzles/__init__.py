"""Tasks, chains, exact grammar and verifier of the bundled thinking models; no torch."""
