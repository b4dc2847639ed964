# make train   train a network on the digits inside the package        make test    run every test
# make bench   measure against the peers                               make check   style, architecture, documents
# make openmpi   the tests of many ranks under a second MPI, in an environment of its own beside .venv
# make evidence   train every target of docs/evidence whose record is missing or old (data: ../shared/data, or ARGS="--data DIR")
#
# Needs Python 3.11 or newer, make, and a package index. Everything is installed into .venv here, nothing elsewhere.
# Another Python: make train PYTHON=python3.12        Arguments of the command: make train ARGS="--seed 1"

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

# Tests run in a process per core, four at most; one that measures time has them to itself: mark `alone`. In one process: ARGS="-n 0"
TESTS := -m pytest -n auto --maxprocesses 4 --dist worksteal
CHECKS := tests/test_layers.py tests/test_documents.py tests/test_doctests.py

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: train test openmpi check bench evidence clean
.DELETE_ON_ERROR:

train: $(VENV)/installed-cli
	@$(BIN)/adjoint train digits $(ARGS)

test: $(VENV)/installed-test
	@$(BIN)/python $(TESTS) $(ARGS)

openmpi: $(VENV)/installed-test
	@$(MAKE) --no-print-directory VENV=$(VENV)-openmpi $(VENV)-openmpi/installed-cli,openmpi
	@MPI_PYTHONS=$(abspath $(VENV)-openmpi)/bin/python $(BIN)/python $(TESTS) tests/distributed -k openmpi $(ARGS)

check: $(VENV)/installed-test
	@$(BIN)/ruff check adjoint tests tools benchmarks examples evidence
	@$(BIN)/python $(TESTS) $(CHECKS)

bench: $(VENV)/installed-bench
	@$(BIN)/python -m benchmarks $(ARGS)

evidence: $(VENV)/installed-evidence
	@$(BIN)/python -m evidence $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-openmpi build dist .pytest_cache .ruff_cache .hypothesis

# One stamp for each set of extras: a second call installs nothing unless pyproject.toml has changed since.
$(VENV)/installed-%: pyproject.toml | $(VENV)/made
	@echo "installing adjoint[$*] into $(VENV)"
	@$(PIP) --editable '.[$*]'
	@touch $@

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Adjoint needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo missing)."; \
		echo "Name another one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "'$(PYTHON) -m venv' failed: this Python comes without its venv or ensurepip module."; \
		echo "On Debian and Ubuntu: apt install python3-venv. Or name another Python: make PYTHON=... $(MAKECMDGOALS)"; \
		exit 1; }
	@touch $@
