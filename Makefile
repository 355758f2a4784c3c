# Two commands matter: `make run` and `make test`. Both work on a bare clone with Python 3.11+.

PYTHON  ?= python3
VENV    ?= .venv
DATA    ?= data
PORT    ?= 8470
ENGINE  ?= embedded
MODEL   ?=
PERSONA ?= wren
OPTIONS ?=
SECONDS ?= 10
# Many tests wait for other processes, so there is work for more than there are cores.
JOBS    ?= $(shell expr $$(nproc 2>/dev/null || sysctl -n hw.ncpu) + 1)

BIN := $(VENV)/bin
# Which environment the engine needs: vLLM is large, so it is installed only when asked for.
ENGINE_STAMP := $(if $(filter vllm,$(ENGINE)),$(VENV)/.vllm,$(VENV)/.base)

.PHONY: run test check vllm bench fuzz lock toy clean

run: $(ENGINE_STAMP) ## Start everything and open a chat
	@exec $(BIN)/sotto up --allow-simulated --data "$(DATA)" --port $(PORT) --engine $(ENGINE) \
	  --persona $(PERSONA) $(if $(MODEL),--model "$(MODEL)") $(OPTIONS)

test: $(VENV)/.dev $(VENV)/.vllm ## All tests
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

check: $(VENV)/.dev ## Lint, types, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

vllm: $(VENV)/.vllm ## Install vLLM (its CPU build where there is no GPU)

bench: $(VENV)/.dev ## Performance, as ratios measured in one session
	$(BIN)/python -m loadtest.bench

fuzz: $(VENV)/.dev ## Fuzz every decoder, SECONDS each (TARGETS="sse cbor": only these)
	$(BIN)/python tests/fuzz --seconds $(SECONDS) $(TARGETS)

LOCK := uv pip compile --quiet --no-emit-index-url --no-annotate --no-header --python-version 3.11

lock: $(VENV)/.dev ## Resolve the lock files anew
	$(BIN)/$(LOCK) pyproject.toml --extra dev requirements/vllm.in --output-file requirements/all.tmp
	$(BIN)/$(LOCK) --universal --generate-hashes --constraint requirements/all.tmp \
	  --output-file requirements/base.lock pyproject.toml
	$(BIN)/$(LOCK) --universal --generate-hashes --constraint requirements/all.tmp --extra dev \
	  --output-file requirements/dev.lock pyproject.toml
	$(BIN)/$(LOCK) --constraint requirements/all.tmp --output-file requirements/vllm.tmp \
	  pyproject.toml requirements/vllm.in
	grep -vE '^(nvidia-|cuda-|triton==|torch==)' requirements/vllm.tmp > requirements/vllm.lock
	rm requirements/all.tmp requirements/vllm.tmp

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Sottovoce needs Python 3.11 or newer; $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "The virtual environment $(VENV) cannot be made: install Python's venv module (Debian: apt install python3-venv) or choose a writable place with VENV=FOLDER" >&2; exit 2; }

$(VENV)/.base: requirements/base.lock pyproject.toml | $(VENV)/bin/pip
	@echo "Installing locked dependencies into $(VENV)…"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/base.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.base
	@echo "Installing what the tests need…"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@touch $@

$(VENV)/.vllm: requirements/vllm.lock tools/install_vllm.sh $(VENV)/.base
	@sh tools/install_vllm.sh $(BIN)
	@touch $@

clean: ## Remove the environment; data stays
	rm -rf $(VENV)
