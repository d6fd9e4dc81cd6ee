# Two commands set everything up on a fresh machine: `make demo` and `make test`; each installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo check test lint docs pythons man dist bench fuzz clean

install:
	@sh scripts/install.sh '$(PYTHON)' $(VENV)

# Only what the demo needs: nextn and one engine.
demo:
	@sh scripts/install.sh '$(PYTHON)' $(VENV) engine
	$(BIN)/nextn demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Everything that starts no engine, without the tests marked slow.
check: lint
	$(BIN)/python -m pytest -q -m "not engine" -n auto --dist worksteal

# Everything, the tests marked slow included.
test: lint
	$(BIN)/python -m pytest --all -m "not engine" -n auto --dist worksteal
	$(BIN)/python -m pytest --all -m engine -n logical --dist worksteal

# The documentation as a site in build/site, made without the network; every warning is an error. `make test` does it too.
docs: install
	$(BIN)/python scripts/make_site.py

# The quick tests on each Python from 3.10 to 3.14 that is on this machine.
pythons:
	scripts/pythons.sh

man: install
	$(BIN)/python scripts/make_man.py

# The wheel and the source archive, in dist/.
dist: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build==1.6.1
	$(BIN)/python -m build

bench: install
	$(BIN)/python benchmarks/header.py
	$(BIN)/python benchmarks/attach.py
	$(BIN)/python benchmarks/bundle.py

# What it finds goes to fuzz-found/ and belongs into tests/data/fuzz_corpus. Atheris is there with the extra `fuzz`.
FUZZ_SECONDS ?= 600
fuzz: install
	$(BIN)/python scripts/fuzz.py --seconds $(FUZZ_SECONDS)
	if $(BIN)/python -c 'import atheris' 2>/dev/null; then \
	  $(BIN)/python scripts/fuzz_header.py -max_total_time=$(FUZZ_SECONDS) tests/data/gguf_corpus/*; fi

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
