# Two commands set everything up on a fresh machine: `make demo` and `make test`; both call `make install`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo check test lint bench clean

install:
	@sh scripts/install.sh '$(PYTHON)' $(VENV)

demo: install
	$(BIN)/nextn demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Everything that starts no engine, on all CPUs.
check: lint
	$(BIN)/python -m pytest -q -m "not engine" -n auto --dist worksteal

test: lint
	$(BIN)/python -m pytest

bench: install
	$(BIN)/python benchmarks/header.py
	$(BIN)/python benchmarks/attach.py
	$(BIN)/python benchmarks/bundle.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
