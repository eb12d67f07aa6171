# make extract   sets everything up and extracts the bundled model's directions
# make test      sets everything up and runs the tests
# make help      says what else there is
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help extract test format report pair defaults noise agreement layers published pairing real real-defaults real-evaluation memory bench models data docs wheel clean

help: ## what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1|/' | awk -F'|' '{printf "  make %-15s %s\n", $$1, $$2}'

# the environment is installed into again when what it holds should change
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'steerkit needs Python 3.11 or newer: make PYTHON=/path/to/python3.11'; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,real]'
	@touch $@

extract: $(READY) ## directions of the bundled model, into out/vectors.safetensors
	$(BIN)/steerkit extract --out out/vectors.safetensors

test: $(READY) ## lint, types and tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

format: $(READY) ## put the code into its one form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

report: $(READY) ## the whole evaluation: dose-response, 78 controls, report (an hour or two)
	$(BIN)/python benchmarks/report.py

pair: $(READY) ## what RL changed: scorecards, pass@k, forbidden behaviours (60 minutes)
	$(BIN)/python benchmarks/pair.py

defaults: $(READY) ## which contrast, method and window should be the default? (half an hour)
	$(BIN)/python benchmarks/defaults.py

noise: $(READY) ## how good does an annotator have to be? (10 minutes)
	$(BIN)/python benchmarks/label_noise.py

agreement: $(READY) ## how far do the bundled annotators agree with others' labels? (5 minutes)
	$(BIN)/python benchmarks/agreement.py

layers: $(READY) ## do cheap scores tell at which layer steering works? (10 minutes)
	$(BIN)/python benchmarks/layers.py

published: $(READY) ## does the real model share directions with published ones? (30 minutes, 8 GB; see benchmarks/reference.py)
	$(BIN)/python benchmarks/published.py

pairing: $(READY) ## what noise shared between coefficients saves in tasks (5 minutes)
	$(BIN)/python benchmarks/pairing.py

real: $(READY) ## a real 1.5B model, from chains to steering, plain and with an adapter (60 minutes, 8 GB)
	$(BIN)/python benchmarks/real.py

real-defaults: $(READY) ## do the defaults hold on that model? (an hour, 8 GB)
	$(BIN)/python benchmarks/real_defaults.py

real-evaluation: $(READY) ## the evaluation of that model, plain and with the adapter (four hours, 8 GB)
	$(BIN)/python benchmarks/real_evaluation.py

memory: $(READY) ## peak memory of collection at 200 and 2,000 chains
	$(BIN)/python benchmarks/collection_memory.py

bench: $(READY) ## speed against Hugging Face and peers (an hour; fetches models and peers)
	$(BIN)/python benchmarks/bench.py --prepare
	$(BIN)/python benchmarks/bench.py

models: $(READY) ## train the bundled pair again, into out/countdown-* (90 minutes)
	$(BIN)/steerkit train sft --out out/countdown-base
	$(BIN)/steerkit train rl --base out/countdown-base --out out/countdown-thinking

data: $(READY) ## write the bundled tasks and chains again
	$(BIN)/python -m steerkit.puzzles --pool heldout --count 800 --out data/tasks/countdown.jsonl
	$(BIN)/steerkit generate --tasks data/tasks/countdown.jsonl --out out/countdown.jsonl
	$(BIN)/steerkit annotate out/countdown.jsonl --out data/traces/countdown.jsonl

docs: $(READY) ## generate docs/help.md, the figure of the README and the results in the pages
	$(BIN)/python docs/generate_help.py
	$(BIN)/python docs/generate_results.py

wheel: $(READY) ## the wheel, into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean: ## remove the environment and everything built
	rm -rf .venv out dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
