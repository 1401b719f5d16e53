# Needs Python 3.11 or newer and make; every target makes or refreshes .venv itself.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test chaos lint bench clean

demo: $(STAMP)
	$(BIN)/twinstream demo --out demo

test: $(STAMP)
	$(BIN)/python -m pytest

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy benchmarks preprocess shards train pipeline.py twinstream.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks.flow
	$(BIN)/python -m benchmarks.preprocess

clean:
	rm -rf .venv build *.egg-info

# Stale when pyproject.toml is newer; a failed installation leaves no stamp and is tried again.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
