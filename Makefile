# `make demo` and `make test` set up all they need in .venv, on a machine that has Python 3.11 or newer.
# Another Python: make demo PYTHON=/path/to/python3.12     Another folder: make test VENV=/path/to/venv

VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
# Tests never reach for the network. They run in a process for each core, so each takes one thread; the tests of a file stay
# together, since they share what is slow to make.
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS=1
PYTEST := $(OFFLINE) $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

.PHONY: help setup demo test test-all lint bench clean

help:
	@echo "make demo      set up, then show what each part of the method buys, on Python's own documentation (minutes)"
	@echo "make test      set up, then check style, types, floors and behaviour"
	@echo "make test-all  the same with the slow tests: kill -9, memory, long runs"
	@echo "make bench     training, decoding and counting speed beside other libraries, on this machine"
	@echo "make setup     only set up .venv with everything"
	@echo "make clean     remove .venv and caches (never runs/ or results/)"

demo: $(VENV)/.core
	$(BIN)/lilliput ladder demo

setup: $(VENV)/.all

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m "slow or not slow"

lint: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.all
	$(BIN)/python bench/train_speed.py
	$(BIN)/python bench/decode_speed.py
	[ -z "$$LILLIPUT_DATA" ] || $(BIN)/python bench/count_speed.py

# A marker in .venv says what is installed, so that a second `make` starts at once.
$(VENV)/.core: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing Lilliput into $(VENV): some minutes the first time"
	$(INSTALL) torch -e '.[lab]'
	@touch $@

$(VENV)/.all: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing Lilliput with every extra into $(VENV): some minutes the first time"
	$(INSTALL) torch -e '.[all,dev]'
	@touch $@ $(VENV)/.core

# The Python asked for, else `python3` where it is new enough, else the newest on the PATH.
$(VENV)/.made:
	@found=; \
	for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python); do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	    found="$$python"; \
	    $$python -c 'import ensurepip, venv' >/dev/null 2>&1 || continue; \
	    $$python -m venv $(VENV) || exit 1; \
	    touch $@; \
	    exit 0; \
	done; \
	if [ -n "$$found" ]; then \
	    echo "error: $$found cannot make virtual environments -> install its venv module" \
	         "(Debian, Ubuntu: apt install python3-venv), or name another: make PYTHON=..." >&2; \
	else \
	    echo "error: no Python 3.11 or newer found -> install one, or name it: make PYTHON=/path/to/python3" >&2; \
	fi; \
	exit 1

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
