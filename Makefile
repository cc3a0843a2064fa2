# `make demo` and `make test` do all of their own set-up, inside this folder.
#
# They need Python 3.11 or newer (`make PYTHON=python3.13 …` picks one), and npm for OpenCode.

PYTHON ?= python3
OPENCODE_VERSION := 1.18.33
BIOME_VERSION := 2.6.8

VENV := .venv
BIN := $(VENV)/bin
OPENCODE := .opencode
BIOME := .biome

export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PATH := $(CURDIR)/$(OPENCODE)/node_modules/.bin:$(PATH)

# Run the second where the first is to be had. On a laptop without Node.js the plugin's JavaScript may
# go unchecked; in CI that would be a check nobody makes.
javascript = @if command -v $(1) >/dev/null; then echo '$(2)'; $(2); \
	else echo "$(notdir $(1)) is missing, so the JavaScript goes unchecked: get Node.js 20.19 or newer." >&2; test -z "$$CI"; fi

.PHONY: help demo test lint unit bench pictures format clean setup

help:
	@echo "make setup    install agenthub and OpenCode into this folder"
	@echo "make demo     two agents on the real OpenCode, with a scripted model"
	@echo "make test     everything that CI checks"
	@echo "make unit     the unit tests alone, in seconds"
	@echo "make bench    latency, throughput and what an idle hub costs"
	@echo "make pictures play the README's picture of a window anew (needs tmux)"
	@echo "make format   format the code"
	@echo "make clean    remove all that make has installed here"

demo: setup
	@$(BIN)/python -m demo

test: lint
	$(call javascript,node,node --test --test-reporter=spec tests/plugin/*.test.mjs)
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term-missing

lint: setup $(BIOME)/$(BIOME_VERSION)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(call javascript,$(BIOME)/node_modules/.bin/biome,$(BIOME)/node_modules/.bin/biome ci)

unit: setup
	$(BIN)/python -m pytest tests/unit

bench: setup
	@$(BIN)/python -m bench
	@$(BIN)/python -m bench.windows

pictures: setup
	@$(BIN)/python -m demo.pictures

format: setup $(BIOME)/$(BIOME_VERSION)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(call javascript,$(BIOME)/node_modules/.bin/biome,$(BIOME)/node_modules/.bin/biome check --write)

clean:
	rm -rf $(VENV) $(OPENCODE) $(BIOME)

setup: $(VENV)/ready $(OPENCODE)/ready
ifneq ($(filter setup,$(MAKECMDGOALS)),)
	@echo
	@echo 'Next, in every terminal:'
	@echo '  export PATH="$(CURDIR)/$(BIN):$(CURDIR)/$(OPENCODE)/node_modules/.bin:$$PATH"'
	@echo 'Then: agenthub setup'
endif

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "agenthub needs Python 3.11 or newer; this is `$(PYTHON) --version`. Try: make PYTHON=python3.13" >&2; exit 1; }
	@echo "Installing agenthub and its tools into $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# npm may not run a package's own scripts, so the one that puts the binary in place is run here. It
# tries the binary, which would make directories in the user's HOME.
$(OPENCODE)/ready:
	@mkdir -p $(OPENCODE)
	@if command -v opencode >/dev/null; then \
		echo "OpenCode is on PATH: `command -v opencode`"; \
	elif ! command -v npm >/dev/null; then \
		echo "npm is missing, so OpenCode cannot be installed: get Node.js to see the real thing." >&2; \
		exit 0; \
	else \
		echo "Installing OpenCode $(OPENCODE_VERSION) into $(OPENCODE) …"; \
		npm install --loglevel=error --no-save --no-package-lock --no-audit --no-fund --ignore-scripts \
			--prefix $(OPENCODE) opencode-ai@$(OPENCODE_VERSION) && \
		env -u XDG_CACHE_HOME -u XDG_CONFIG_HOME -u XDG_DATA_HOME -u XDG_STATE_HOME \
			HOME=$(CURDIR)/$(OPENCODE) TMPDIR=$(CURDIR)/$(OPENCODE) \
			node $(OPENCODE)/node_modules/opencode-ai/postinstall.mjs >/dev/null && \
		touch $@; \
	fi

$(BIOME)/$(BIOME_VERSION):
	@mkdir -p $(BIOME)
	@if command -v npm >/dev/null; then \
		echo "Installing Biome $(BIOME_VERSION) into $(BIOME) …"; \
		npm install --loglevel=error --no-save --no-package-lock --no-audit --no-fund --ignore-scripts \
			--prefix $(BIOME) @biomejs/biome@$(BIOME_VERSION) && \
		touch $@; \
	fi
