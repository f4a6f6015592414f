# `make` lists what there is to do. Paths with blanks are fine.

SHELL := /bin/sh
PYTHON ?= python3
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install up test browser check drill bench dist fmt clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

install: .venv/bin/onsale  ## make .venv with everything; again when pyproject.toml has changed

.venv/bin/onsale: pyproject.toml
	@echo "making .venv: a minute, once"
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

up: install  ## run the whole engine here; options: make up ARGS="--port 9000"
	@exec .venv/bin/onsale up $(ARGS)

test: install  ## run the tests against real servers; options: make test ARGS="-k cancel"
	.venv/bin/python -m pytest $(ARGS)

browser: install  ## run the pages' tests in the system's Chromium; options: make browser ARGS="-k phone"
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,browser]'
	.venv/bin/python -m pytest tests/browser $(ARGS)

check: install  ## lint, format, types, import directions
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy
	.venv/bin/lint-imports

drill: install  ## break a sale, and judge it; options: make drill ARGS="--rounds 100"
	.venv/bin/onsale drill $(ARGS)

bench: install  ## measure it beside its peers: half an hour; options: make bench ARGS=--short
	.venv/bin/onsale bench $(ARGS)

dist: install  ## build the wheel and the sdist, into dist/
	.venv/bin/python -m hatchling build

fmt: install  ## format, and mend what the linter can mend
	.venv/bin/python -m ruff check --fix-only .
	.venv/bin/python -m ruff format .

clean:  ## remove .venv and what tools have left; the data in .onsale stay
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
