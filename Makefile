# One command each: `make serve` runs Nestling, `make test` tests it. Both set themselves up in .venv.
SHELL := /bin/bash
PYTHON ?= python3
CXX ?= c++
HOST ?= 127.0.0.1
PORT ?= 8000
DATA_DIR ?=
MODEL ?=
THREADS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
NATIVE := CMakeLists.txt $(shell find native -type f 2>/dev/null)
TORCH := torch==2.13.0

.PHONY: help serve test check tidy stub bench format lock clients parity native-test native-test-arm64 native-test-x86 skills wheel wheel-test clean
help:
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 20

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Nestling needs Python 3.11 or newer: install python3 (Debian: apt install python3 python3-venv), or name one: make PYTHON=python3.12 serve" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "Python's venv module is missing: install it (Debian: apt install python3-venv)" >&2; exit 2; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
	  || { echo "Python's C headers are missing: install them (Debian: apt install python3-dev)" >&2; exit 2; }
	@printf '#if __cplusplus < 202002L\n#error\n#endif\n#include <concepts>\nint main() {}\n' | $(CXX) -std=c++20 -x c++ -fsyntax-only - 2>/dev/null \
	  || { echo "Nestling needs a C++20 compiler: install one (Debian: apt install g++, version 11 or newer), or name one: make CXX=g++-12 serve" >&2; exit 2; }
	@echo "Setting up $(VENV) (once, about a minute) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: locks/serve.lock | $(VENV)/bin/python
	@$(PIP) install --require-hashes -r locks/serve.lock
	@touch $@

$(VENV)/.dev: locks/dev.lock | $(VENV)/.serve
	@$(PIP) install --require-hashes -r locks/dev.lock
	@touch $@

$(VENV)/.built: pyproject.toml $(NATIVE) $(VENV)/.serve
	@PATH="$(CURDIR)/$(BIN):$$PATH" CXX="$(CXX)" $(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

serve: $(VENV)/.built ## start the server (HOST, PORT, DATA_DIR, MODEL)
	@exec $(BIN)/nestling serve --host "$(HOST)" --port "$(PORT)" \
	  $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(if $(MODEL),--model "$(MODEL)")

test: $(VENV)/.built $(VENV)/.dev ## run the tests that need no torch, no wheel, no network and no weights; print branch coverage
	@rm -rf build/coverage && mkdir -p build/coverage
	@$(BIN)/coverage run -m pytest -m "not parity and not clients and not wheel"
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report
	@echo "Left out: the OpenAI client for Node.js (make clients)."
	@echo "Left out: the wheel in a clean environment (make wheel-test)."
	@echo "Left out: the live comparison with torch, transformers and sentencepiece (make parity)."

check: $(VENV)/.built $(VENV)/.dev tidy ## ruff, mypy, import-linter, clang-format, clang-tidy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(call write_stub,build/_core.pyi)
	@cmp -s build/_core.pyi $(STUB) || { echo "$(STUB) is not what the extension says: run make stub" >&2; exit 1; }
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(shell find native -name '*.cpp' -o -name '*.h')

# Sources of other processors are left out: this compiler's flags for them mean nothing here.
OTHER_PROCESSORS := $(if $(filter x86_64 amd64,$(shell uname -m)),neon,avx)
tidy: $(VENV)/.serve $(VENV)/.dev ## clang-tidy over the C++ core, by the list in .clang-tidy
	@$(BIN)/cmake -S . -B build/tidy -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" \
	  -DCMAKE_CXX_COMPILER="$(CXX)" -DCMAKE_EXPORT_COMPILE_COMMANDS=ON > /dev/null
	@find native/src -name '*.cpp' ! -name '*$(OTHER_PROCESSORS)*' -print0 | xargs -0 -P "$$(nproc)" -n 1 \
	  $(BIN)/clang-tidy -p build/tidy --quiet --extra-arg=-Wno-unknown-warning-option

# The stub is checked in, so that type checkers know the extension in a fresh clone, and wheels hold it.
STUB := src/nestling/native/_core.pyi
define write_stub
	@mkdir -p build
	@$(BIN)/python -m nanobind.stubgen -q -D -m nestling.native._core -o build/_core.stubgen.pyi
	@{ echo "# Types of the C++ core, written by make stub from native/bindings. Only this package imports it."; \
	  cat build/_core.stubgen.pyi; } > $(1)
	@$(BIN)/ruff format -q $(1)
endef

stub: $(VENV)/.built $(VENV)/.dev ## write the types of the C++ core anew, after a change of its bindings
	$(call write_stub,$(STUB))

bench: $(VENV)/.built ## measure speed and memory, draw the curves into docs/ under the model's name (MODEL, THREADS)
	@$(BIN)/nestling bench --profile --curves docs \
	  $(if $(MODEL),--model "$(MODEL)",--model nestling-nano) $(if $(THREADS),--threads "$(THREADS)")

format: $(VENV)/.dev ## rewrite the sources in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(shell find native -name '*.cpp' -o -name '*.h')

native-test: $(VENV)/.serve ## run the C++ core's tests under ASan, UBSan and TSan
	@set -e; for sanitizers in address,undefined thread; do \
	  build=build/native-test-$${sanitizers%%,*}; \
	  $(BIN)/cmake -S . -B $$build -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" \
	    -DCMAKE_CXX_COMPILER="$(CXX)" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	    -DNESTLING_NATIVE_TESTS=ON -DNESTLING_SANITIZERS=$$sanitizers > /dev/null; \
	  $(BIN)/cmake --build $$build; \
	  $(BIN)/ctest --test-dir $$build --output-on-failure; \
	done

# Fails if an object file of a variant leaves a function behind that the linker could take for all processors,
# or if there is no such file. Arguments: nm, the file names' pattern.
define no_shared_functions
objects="$$(find $$build/CMakeFiles/nestling_kernels.dir -name '$(2)')"; \
	if [ -z "$$objects" ]; then echo "No object file is named $(2)" >&2; exit 1; fi; \
	if $(1) -A -C --defined-only $$objects | grep ' [VW] '; then \
	  echo "Built for one processor, but shared by all: see above" >&2; exit 1; fi
endef

native-test-arm64: $(VENV)/.serve ## run the C++ core's tests for arm64, cross-compiled, under qemu
	@{ command -v aarch64-linux-gnu-g++ && command -v qemu-aarch64; } > /dev/null \
	  || { echo "Needs a cross-compiler and an emulator (Debian: apt install g++-aarch64-linux-gnu qemu-user)" >&2; exit 2; }
	@set -e; build=build/native-test-arm64; \
	$(BIN)/cmake -S . -B $$build -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" \
	  -DCMAKE_TOOLCHAIN_FILE="$(CURDIR)/native/cmake/aarch64-linux-gnu.cmake" \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DNESTLING_NATIVE_TESTS=ON > /dev/null; \
	$(BIN)/cmake --build $$build; \
	$(call no_shared_functions,aarch64-linux-gnu-nm,*_neon*.o); \
	QEMU_CPU=max $(BIN)/ctest --test-dir $$build --output-on-failure --exclude-regex variants; \
	qemu-aarch64 -cpu max $$build/test_variants neon; \
	qemu-aarch64 -cpu cortex-a53 $$build/test_variants portable

native-test-x86: $(VENV)/.serve ## run the C++ core's tests on emulated x86-64 without AVX-512 and AVX2
	@command -v qemu-x86_64 > /dev/null \
	  || { echo "Needs an emulator (Debian: apt install qemu-user)" >&2; exit 2; }
	@set -e; build=build/native-test-x86; \
	$(BIN)/cmake -S . -B $$build -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" \
	  -DCMAKE_CXX_COMPILER="$(CXX)" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DNESTLING_NATIVE_TESTS=ON > /dev/null; \
	$(BIN)/cmake --build $$build; \
	$(call no_shared_functions,nm,*_avx*.o); \
	for processor in Haswell:avx2 Nehalem:portable; do \
	  for test in $$build/test_*; do \
	    echo "$${processor%:*}: $${test##*/}"; \
	    qemu-x86_64 -cpu $${processor%:*} $$test $${processor#*:}; \
	  done; \
	done

NODE_CLIENT := tests/e2e/node

$(VENV)/.clients: locks/clients.lock $(NODE_CLIENT)/package-lock.json $(VENV)/.dev
	@$(PIP) install --require-hashes -r locks/clients.lock
	@cd $(NODE_CLIENT) && PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

clients: $(VENV)/.built $(VENV)/.clients ## drive the server with the OpenAI client for Node.js
	@$(BIN)/python -m pytest -m clients

$(VENV)/.parity: locks/parity.lock $(VENV)/.dev
	@$(PIP) install $(TORCH)
	@$(PIP) install --require-hashes -r locks/parity.lock
	@touch $@

parity: $(VENV)/.built $(VENV)/.dev $(VENV)/.parity ## compare live with torch, transformers and sentencepiece
	@$(BIN)/python -m pytest -m parity

lock: $(VENV)/bin/python ## resolve the dependencies anew and pin them by hash
	@$(PIP) install uv
	@set -e; lock="$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header -q"; \
	$$lock pyproject.toml --group build -o locks/serve.lock; \
	$$lock pyproject.toml --group build --group dev -c locks/serve.lock -o locks/dev.lock; \
	$$lock pyproject.toml --group dev --group parity -c locks/dev.lock -o locks/parity.lock; \
	$$lock --group clients -o locks/clients.lock

wheel: $(VENV)/.serve ## build the wheel for this Python and processor into dist/
	@rm -rf dist
	@PATH="$(CURDIR)/$(BIN):$$PATH" CXX="$(CXX)" $(PIP) wheel --no-build-isolation --no-deps -w dist .
	@ls dist/*.whl

WHEEL_TEST := build/wheel-test

wheel-test: wheel $(VENV)/.built $(VENV)/.dev ## install the wheel into a clean environment and use it there
	@rm -rf $(WHEEL_TEST) && mkdir -p $(WHEEL_TEST)
	@$(PIP) download --require-hashes -r locks/serve.lock -d $(WHEEL_TEST)/packages
	@$(BIN)/python -m venv $(WHEEL_TEST)/venv
	@$(WHEEL_TEST)/venv/bin/python -m pip --disable-pip-version-check -q install \
	  --no-index --find-links $(WHEEL_TEST)/packages dist/*.whl
	@$(BIN)/python -m pytest -m wheel

skills: $(VENV)/.built ## ask the embedded model all its evaluation prompts, with our engine
	@$(BIN)/python -m training.evaluate --backend nestling --model src/nestling/assets/nano \
	  training/eval/skills.jsonl training/eval/own_wording.jsonl

clean: ## remove the environment, every build product and the tools' caches
	rm -rf $(VENV) build dist $(NODE_CLIENT)/node_modules .hypothesis .*_cache
	find benchmarks src tests training -name __pycache__ -prune -exec rm -rf {} +
