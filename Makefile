# Everything a contributor types; `make` alone explains it. All of it happens inside this folder.

PYTHON ?= python3
# The build of torch for tests and training, never one with CUDA unless asked for:
# `make setup TORCH=torch==2.13.0` takes whatever pip's index offers.
TORCH ?= torch==$(TORCH_VERSION)$(if $(filter Linux,$(shell uname -s)),+cpu)
# Where pip finds that build, if its own configuration does not say.
TORCH_INDEX ?=
# More arguments for `make demo` (a question in quotes, --model ID, ...) and for `make test` (-k NAME, ...).
ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
LIGHT := .venv/.light
FULL := .venv/.full
NANO := $(wildcard models/runoff-nano/pyproject.toml)
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
DEMO_DOCUMENTS := build/demo/wikipedia.jsonl
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --progress-bar off --constraint constraints.txt
# pip's words go to a log; its last ones are shown when it fails.
LOGGED := >> build/setup.log 2>&1 || { tail -n 15 build/setup.log >&2; exit 1; }
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# One process a core, one thread each: two thread pools on the same cores wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help setup demo test check format bench docs lock clean

help: ## explain the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Variables: PYTHON=$(PYTHON) (3.11 or newer), ARGS='...' for demo, test and bench, TORCH=$(TORCH)"

setup: $(FULL) ## install Runoff, its extras and the test tools into .venv (2 GB, 2 to 3 minutes)

demo: $(LIGHT) ## search 10,000 Wikipedia leads and rerank them; installs no torch (ARGS='--model ID')
	@where='--documents $(DEMO_DOCUMENTS) --index build/demo/demo.index'; \
	$(BIN)/python recipes/demo_collection.py || { where=; \
	  echo "demo: searching the documentation of Python's library instead" >&2; }; \
	$(BIN)/runoff demo $(if $(findstring --documents,$(ARGS)),,$$where) $(ARGS)

test: $(FULL) ## run every test (ARGS='-k name' for some, ARGS="-m 'not slow'" for the quick ones)
	@$(ONE_THREAD) $(BIN)/pytest -n auto --dist loadfile $(ARGS)

check: $(FULL) ## lint, format check and types; changes nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(FULL) ## rewrite the sources in the one format, with the safe lint fixes
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

bench: $(FULL) $(DEMO_DOCUMENTS) ## run the quick form of every benchmark; the figures go to benchmarks/results
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" --quick $(ARGS); done

docs: $(FULL) ## check the documentation: links, Python snippets, the tree of files
	@$(BIN)/pytest -q tests/test_docs.py tests/test_architecture.py

lock: ## write constraints.txt anew from the newest releases, in a scratch environment
	@mkdir -p build && $(PYTHON) -m venv --clear build/lock
	@build/lock/bin/python -m pip install -qq --upgrade pip
	@build/lock/bin/python -m pip install -qq $(INDEX) '$(TORCH)'
	@build/lock/bin/python -m pip install -qq hatchling --group lint --group test \
	    -e '.[cli,search,files,torch,train,eval]'
	@{ sed -n '/^#/p' constraints.txt; build/lock/bin/python -m pip freeze --all --exclude-editable \
	    | sed '/^torch==/s/+.*//' | sort -f; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt && rm -r build/lock

clean: ## remove .venv, build and the tools' caches
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests recipes benchmarks -name __pycache__ -type d -prune -exec rm -r {} +

# What the demo needs: core, terminal tables, Lance, and our own small reranker. No torch.
$(LIGHT): pyproject.toml constraints.txt $(NANO)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Runoff needs Python 3.11 or newer, not $$($(PYTHON) --version): make PYTHON=python3.12 ..." >&2; exit 1; }
	@mkdir -p build && : > build/setup.log
	@echo "setup: .venv, with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(INSTALL) pip $(LOGGED)
	@echo "setup: runoff with the extras cli, search, files$(if $(NANO), and the model runoff-nano)"
	@$(INSTALL) --build-constraint constraints.txt -e '.[cli,search,files]' $(if $(NANO),-e ./models/runoff-nano) $(LOGGED)
	@touch $@

# Everything else. torch comes first and alone, so that nothing can choose another build of it. Where pip knows
# no CPU build (PyPI's own torch for Linux brings CUDA), PyPI's serves as well: it is only larger.
$(FULL): $(LIGHT)
	@echo "setup: $(TORCH)"
	@$(INSTALL) $(INDEX) '$(TORCH)' >> build/setup.log 2>&1 || { \
	  echo "setup: pip's index has no $(TORCH); taking torch==$(TORCH_VERSION), which may bring CUDA (several GB)."; \
	  echo "       For the small build stop here and give the address of PyTorch's CPU wheels (its Get Started"; \
	  echo "       page names it): make setup TORCH_INDEX=ADDRESS"; \
	  $(INSTALL) 'torch==$(TORCH_VERSION)' $(LOGGED); }
	@echo "setup: the extra torch, the test tools and the linters"
	@$(INSTALL) --build-constraint constraints.txt --group lint --group test -e '.[torch]' $(LOGGED)
	@touch $@

$(DEMO_DOCUMENTS): recipes/demo_collection.py | $(LIGHT)
	@$(BIN)/python recipes/demo_collection.py
	@touch $@
