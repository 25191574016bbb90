# Every target makes .venv first if it is not there; nothing else is asked of the machine but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := build/deepseek-v3-tiny-ascend-910b
WORKERS ?= 2

.PHONY: setup demo test test-all test-toolchains toolchains check bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11"; echo "hint: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[verify,dev]'
	@touch $(READY)

demo: $(READY)  ## converts a trained DeepSeek-V3 in miniature for the Ascend 910B and proves the port
	$(BIN)/porter convert samples/deepseek-v3-tiny --target ascend-910b --output $(DEMO) --force
	$(BIN)/porter verify $(DEMO) --against samples/deepseek-v3-tiny

test: $(READY)  ## everything but the slow suites
	$(BIN)/python -m pytest -n $(WORKERS)

test-all: $(READY)  ## the slow suites too
	$(BIN)/python -m pytest -n $(WORKERS) -m 'not toolchains'

toolchains: $(READY)  ## the vendors' compilers that need no hardware, an environment each under build/toolchains
	$(BIN)/python tests/toolchains/setup.py

test-toolchains: toolchains  ## compiles for them, and runs what they made in their simulators
	$(BIN)/python -m pytest -m toolchains tests/toolchains

check: $(READY)  ## lint, format, strict types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(READY)  ## ratios beside a reference, in one run
	$(BIN)/python benchmarks/experts.py
	$(BIN)/python benchmarks/convert.py --small
	$(BIN)/python benchmarks/deepseek_v3_folder.py
	$(BIN)/python benchmarks/bytes.py
	$(BIN)/python benchmarks/plan.py

clean:
	rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache
