# make chat                  install OpenGLM and talk to nano        make chat PROMPT='你好'   one answer, then exit
# make test                  install with the test tools, then all checks and all tests
# make quick                 the checks, and the tests of rooms that need no second process, no server and no training run
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
export PROMPT
# Build tools are pinned too.
export PIP_CONSTRAINT := constraints.txt

# By folder: what computes in this one process. Rooms that train, serve, kill or convert are left to `make test`.
QUICK := tests/test_layers.py tests/model tests/quant tests/text tests/plan

.PHONY: chat test quick check clean

chat: $(VENV)/.installed
	@if [ -n "$$PROMPT" ]; then $(BIN)/glm chat nano --tools --prompt "$$PROMPT"; else $(BIN)/glm chat nano --tools; fi

# Two files at a time, one thread each: threads of two programs would wait for one another.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

quick: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(QUICK)

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror openglm/kernels/csrc/*.h openglm/kernels/csrc/*.cpp
	$(BIN)/python -m mypy

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "OpenGLM needs Python 3.10 or newer, and '$(PYTHON)' is not here: install it or name yours, 'make PYTHON=/path/to/python3'" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "OpenGLM needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name a newer one: 'make PYTHON=/path/to/python3'" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "this Python lacks the venv module: install it (Debian, Ubuntu: 'apt install python3-venv')" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt $(wildcard openglm/kernels/csrc/*)
	@echo "Installing OpenGLM into $(VENV) (PyTorch is the large part; a few minutes on a first run) ..." >&2
	@$(PIP) --editable . || { echo "the installation failed: see pip's message above; a network or a package mirror is needed once" >&2; exit 1; }
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing the test tools ..." >&2
	@$(PIP) --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
