PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin

.PHONY: help setup dry-run test check bench clean
help:  ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
	  { echo "error: Python 3.11 or 3.12 is needed; name one: make setup PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

setup: $(READY)  ## install everything into .venv

dry-run: $(READY)  ## train on the embedded sample, score it beside the baselines, write a submission
	$(BIN)/tools dry-run

test: $(READY)  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(READY)  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## every speed figure of docs/speed.md
	$(BIN)/python tests/bench.py

clean:  ## remove the environment and the caches; what runs have made stays in runs/
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
