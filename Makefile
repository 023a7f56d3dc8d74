# `make demo` and `make test` need nothing but Python 3.11 or newer: they make .venv and install into it, once, and again
# when pyproject.toml or constraints.txt changes.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := diffusers_difftune training_scripts examples benchmarks tests

.DEFAULT_GOAL := help
.PHONY: help demo demo-controlnet benchmark-transfers test test-slow style quality wheel clean

help:
	@echo "make demo     fine-tune the embedded pipeline twice and compare (at most 8 minutes on two cores)"
	@echo "make demo-controlnet   train a ControlNet twice and compare (about 8 minutes on two cores)"
	@echo "make benchmark-transfers   eight transfers of a small DiT, every method (many hours; stop and go on at will)"
	@echo "make test     run the tests, but for the slow ones"
	@echo "make test-slow   run the slow tests: kills, several processes, every flag with every script"
	@echo "make style    format and fix what can be fixed"
	@echo "make quality  check format, lint, types and who imports whom"
	@echo "make wheel    build what is published into dist/, check it, and train with the wheel in an empty folder"
	@echo "make clean    remove .venv, dist and what the demo wrote"

demo: .venv/.installed
	$(BIN)/python examples/icons/demo.py

demo-controlnet: .venv/.installed
	$(BIN)/python examples/icons/demo_controlnet.py

benchmark-transfers: .venv/.icons
	$(BIN)/python benchmarks/transfers/data.py --threads 2
	$(BIN)/python benchmarks/transfers/source.py
	$(BIN)/python benchmarks/transfers/run.py --jobs 2

test: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m slow

style: .venv/.quality
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

quality: .venv/.quality
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

wheel: .venv/.release
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	OMP_NUM_THREADS=1 .ci/try_wheel .venv

clean:
	rm -rf .venv build dist outputs/demo outputs/demo-controlnet

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
		'Python 3.11 or newer is needed, $(PYTHON) is ' + sys.version.split()[0] + '; try: make PYTHON=python3.12 ...')"
	@echo "Installing into .venv; the first time this takes some minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[test]"
	@touch $@

.venv/.icons: .venv/.installed
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[icons]"
	@touch $@

.venv/.quality: .venv/.installed
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[quality]"
	@touch $@

.venv/.release: .venv/.installed
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[release]"
	@touch $@
