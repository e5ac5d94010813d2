# Each target does its own set-up: a machine needs Python 3.11 or later, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench clean

demo: $(READY)
	$(BIN)/audit demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks.generate
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.scoring
	$(BIN)/python -m benchmarks.vae
	$(BIN)/python -m benchmarks.full_size
	$(BIN)/python -m benchmarks.report
	$(BIN)/python -m benchmarks.dashboard
	$(BIN)/python -m benchmarks.inside
	$(BIN)/python -m benchmarks.pixels

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) demo-run synthetic-run
