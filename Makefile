# Each target does its own set-up: a machine needs Python 3.11 or later, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Pinned, as all that is installed: uv here, everything else by hash in requirements.lock.
UV := uv==0.13.9

.PHONY: demo test coverage check docs rehearse bench lock clean

demo: $(READY)
	$(BIN)/audit demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# All tests again with the lines that they reach counted; below the floor it fails.
coverage: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report term:skip-covered

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

# A release as its users get it: the wheel, in a fresh environment outside the checkout.
rehearse: $(READY)
	bash scripts/rehearse.sh $(PYTHON) '$(UV)'

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

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
	$(BIN)/python -m pip install --quiet '$(UV)'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

# Resolve anew for pyproject.toml, keeping the locked versions where they fit (delete the lock to
# take the newest). No address of a registry is written: each machine asks its own.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet '$(UV)'
	.venv-lock/bin/uv pip compile pyproject.toml --extra dev --extra faces --extra ocr --extra onnx --extra unsafe \
		--extra gguf \
		--generate-hashes --no-annotate --quiet --custom-compile-command 'make lock' \
		--output-file requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) demo-run synthetic-run
