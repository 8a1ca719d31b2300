# `make bench`: environment, then export and benchmark the bundled networks.
# `make test`:  environment, then formatting, lint, types and all tests.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= bench-results
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: env test check bench clean

env: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and f"repr-deploy needs Python 3.11 or later; $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps tensorrt-stubs==10.13.0.35.1  # they ask for tensorrt itself
	$(BIN)/python -m pip install -q --no-deps -e .
	@touch $@

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

bench: env
	$(BIN)/repr-bench --all-bundled --artifacts $(OUT)/artifacts --json $(OUT)/results.json --html $(OUT)/report.html

clean:
	rm -rf $(VENV) $(OUT)
