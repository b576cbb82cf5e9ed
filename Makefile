# `make demo` and `make test` set up what they need in .venv and reuse it the next time.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
RUN := $(VENV)/bin/python

.PHONY: demo test test-slow lint types readme clean

demo: $(INSTALLED)
	$(RUN) examples/demo.py demo

test: $(INSTALLED)
	$(RUN) -m pytest

test-slow: $(INSTALLED)
	$(RUN) -m pytest -m slow

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(INSTALLED)
	$(RUN) -m mypy

readme: $(INSTALLED)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) .ci/readme.py README.md

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
