# One environment for everything; needs Python >= 3.11 with pip, and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test bench clean

demo: .venv/ready  ## train CE and D-FFDS on the embedded digits and print them side by side
	$(BIN)/ffds compare digits --methods ce,d-ffds --seeds 0,1 --out runs

test: .venv/ready  ## style, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto

bench: .venv/ready  ## measure speed and memory side by side with the conventional loop
	$(BIN)/python -m benchmarks

clean:  ## forget the environment and all caches, keep runs
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("ffds needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train,dev]'
	touch $@
