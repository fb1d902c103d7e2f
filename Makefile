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
NATIVE := CMakeLists.txt native/CMakeLists.txt $(wildcard native/*.cc native/*.h)
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
DEMO_DOCUMENTS := build/demo/wikipedia.jsonl
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --progress-bar off --constraint constraints.txt
# pip's words go to a log; its last ones are shown when it fails.
LOGGED := >> build/setup.log 2>&1 || { tail -n 15 build/setup.log >&2; exit 1; }
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# One process a core, one thread each: two thread pools on the same cores wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# Races keep their checkpoints and exports here; those of other engines' environments that there are take part.
RACE := $(BIN)/runoff race --cache build/bench
PUBLISHED := $(RACE) --device cpu --out benchmarks/results --name race_cpu

# The builds of the native engine that are only tested, in folders of their own.
CMAKE := $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DRUNOFF_SELFTEST=ON
ASAN := build/native-asan
EMULATED := build/native-emulated
AARCH64 := build/native-aarch64
AARCH64_CXX ?= aarch64-linux-gnu-g++
QEMU_AARCH64 ?= $(firstword $(shell command -v qemu-aarch64-static qemu-aarch64))

.PHONY: help setup demo test check check-native check-aarch64 format bench race docs native lock clean

help: ## explain the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Variables: PYTHON=$(PYTHON) (3.11 or newer), ARGS='...' for demo, test, bench and race, TORCH=$(TORCH)"

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

check-native: $(FULL) ## run tests/native and the kernels' own tests under the address and undefined-behaviour sanitizers
	@mkdir -p build && echo "check-native: compiling into $(ASAN)"
	@$(CMAKE) -S . -B $(ASAN) -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g" \
	    -DCMAKE_CXX_FLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer" \
	    -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -Dnanobind_DIR="$$($(BIN)/python -m nanobind --cmake_dir)" > $(ASAN).log
	@$(BIN)/cmake --build $(ASAN) >> $(ASAN).log || { tail -n 40 $(ASAN).log >&2; exit 1; }
	@$(ASAN)/native/runoff_selftest
	@# Python itself is not instrumented, so the sanitizer's library comes first, with the C++ library it looks into.
	@# pytest leaves stderr alone (--capture=sys): a report ends the process, and what pytest has kept ends with it.
	@compiler=$$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' $(ASAN)/CMakeCache.txt); \
	LD_PRELOAD="$$($$compiler -print-file-name=libasan.so) $$($$compiler -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
	RUNOFF_NATIVE="$$(ls $(CURDIR)/$(ASAN)/native/_native*.so)" \
	  $(BIN)/python -m pytest -q --capture=sys -p no:cacheprovider tests/native $(ARGS)
	@echo "check-native: every other instruction set, emulated"
	@$(CMAKE) -S . -B $(EMULATED) -DRUNOFF_EMULATE=ON -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	    -Dnanobind_DIR="$$($(BIN)/python -m nanobind --cmake_dir)" > $(EMULATED).log
	@$(BIN)/cmake --build $(EMULATED) >> $(EMULATED).log || { tail -n 40 $(EMULATED).log >&2; exit 1; }
	@RUNOFF_EMULATED=1 RUNOFF_NATIVE="$$(ls $(CURDIR)/$(EMULATED)/native/_native*.so)" \
	  $(BIN)/python -m pytest -q -p no:cacheprovider tests/native $(ARGS)

check-aarch64: $(LIGHT) ## run the kernels' own tests for 64-bit ARM, cross-compiled, on an emulated processor
	@command -v $(AARCH64_CXX) > /dev/null && test -n "$(QEMU_AARCH64)" || { \
	  echo "check-aarch64 needs a cross compiler and an emulator: apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 1; }
	@mkdir -p build && echo "check-aarch64: compiling into $(AARCH64)"
	@$(CMAKE) -S . -B $(AARCH64) -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DRUNOFF_MODULE=OFF \
	    -DCMAKE_CXX_COMPILER=$(AARCH64_CXX) -DCMAKE_EXE_LINKER_FLAGS=-static > $(AARCH64).log
	@$(BIN)/cmake --build $(AARCH64) >> $(AARCH64).log || { tail -n 40 $(AARCH64).log >&2; exit 1; }
	@for cpu in cortex-a53 max; do echo "check-aarch64: on $$cpu"; \
	  $(QEMU_AARCH64) -cpu $$cpu $(AARCH64)/native/runoff_selftest; done

format: $(FULL) ## rewrite the sources in the one format, with the safe lint fixes
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

bench: $(FULL) $(DEMO_DOCUMENTS) ## run the quick form of every benchmark; the figures go to benchmarks/results
	@$(RACE) --quick --out build/bench/quick
	@$(RACE) --quick --latency --out build/bench/quick
	@$(RACE) --quick --growth length --out build/bench/quick
	@for script in $(filter-out benchmarks/peer_%,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python "$$script" --quick $(ARGS); done

race: $(FULL) ## measure the published CPU tables anew, hours on two cores; goes on where it was interrupted
	@$(PUBLISHED) $(ARGS)
	@$(PUBLISHED) --latency $(ARGS)
	@for along in length documents threads; do $(PUBLISHED) --growth $$along $(ARGS); done

docs: $(FULL) ## check the documentation: links, Python snippets, the tree of files
	@$(BIN)/pytest -q tests/test_docs.py tests/test_architecture.py

native: ## compile what changed in native/ and say what is wrong with it (`make test` compiles too, in silence)
	@test -e $(LIGHT) || $(MAKE) --no-print-directory $(LIGHT)
	@RUNOFF_REQUIRE_NATIVE=1 $(INSTALL) --quiet --no-build-isolation --no-deps -e .

lock: ## write constraints.txt anew from the newest releases, in a scratch environment
	@mkdir -p build && $(PYTHON) -m venv --clear build/lock
	@build/lock/bin/python -m pip install -qq --upgrade pip
	@build/lock/bin/python -m pip install -qq $(INDEX) '$(TORCH)'
	@build/lock/bin/python -m pip install -qq --group build
	@build/lock/bin/python -m pip install -qq --no-build-isolation --group lint --group test \
	    -e '.[cli,search,files,torch,train,ray,eval,serve]'
	@{ sed -n '/^#/p' constraints.txt; build/lock/bin/python -m pip freeze --all --exclude-editable \
	    | sed '/^torch==/s/+.*//' | sort -f; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt && rm -r build/lock

clean: ## remove .venv, build and the tools' caches
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests recipes benchmarks -name __pycache__ -type d -prune -exec rm -r {} +

# What the demo needs: core, terminal tables, Lance, and our own small reranker. No torch.
$(LIGHT): pyproject.toml constraints.txt $(NANO) $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Runoff needs Python 3.11 or newer, not $$($(PYTHON) --version): make PYTHON=python3.12 ..." >&2; exit 1; }
	@mkdir -p build && : > build/setup.log
	@echo "setup: .venv, with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(INSTALL) pip $(LOGGED)
	@$(INSTALL) --group build $(LOGGED)
	@echo "setup: runoff with the extras cli, search, files$(if $(NANO), and the model runoff-nano)"
	@$(INSTALL) --no-build-isolation -e '.[cli,search,files]' $(if $(NANO),-e ./models/runoff-nano) $(LOGGED)
	@$(BIN)/python -c 'import sys; from importlib.util import find_spec; sys.exit(not find_spec("runoff._native"))' || { \
	  echo "setup: without the native engine: there is no C++17 compiler, or it failed. Install one (apt-get install"; \
	  echo "       g++, or xcode-select --install); \`make native\` then builds the engine, or says why it cannot."; }
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
	@echo "setup: the extras train, ray and serve, the test tools and the linters"
	@$(INSTALL) --no-build-isolation --group lint --group test -e '.[train,ray,serve]' $(LOGGED)
	@touch $@

$(DEMO_DOCUMENTS): recipes/demo_collection.py | $(LIGHT)
	@$(BIN)/python recipes/demo_collection.py
	@touch $@
