# `make demo` and `make test` do all of their own set-up, inside this folder.
#
# They need Python 3.11 or newer (`make PYTHON=python3.13 …` picks one), and npm for OpenCode.

PYTHON ?= python3
OPENCODE_VERSION := 1.18.33

VENV := .venv
BIN := $(VENV)/bin
OPENCODE := .opencode

export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PATH := $(CURDIR)/$(OPENCODE)/node_modules/.bin:$(PATH)

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
	$(BIN)/python -m pytest --cov --cov-report=term-missing

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup
	$(BIN)/python -m pytest tests/unit

bench: setup
	@$(BIN)/python -m bench

pictures: setup
	@$(BIN)/python -m demo.pictures

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(OPENCODE)

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
