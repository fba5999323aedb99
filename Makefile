# make demo | make test | make bench | make figures | make lint     (Python >= 3.11; no compiler needed)
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python

.PHONY: demo test bench figures lint clean

demo: $(VENV)/installed
	$(PY) -m meshkernels demo
	$(PY) -m plots

test: $(VENV)/installed-test
	$(PY) -m pytest

bench: $(VENV)/installed-test
	$(PY) -m bench

figures: $(VENV)/installed
	$(PY) -m plots

lint: $(VENV)/installed-lint
	$(PY) -m ruff check .
	$(PY) -m mypy meshkernels perfmodel plots

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(PY) -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	$(PY) -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/installed

$(VENV)/installed-lint: pyproject.toml | $(VENV)/bin/python
	$(PY) -m pip install --quiet --editable '.[test,lint]'
	touch $@

clean:
	rm -rf $(VENV) figures .pytest_cache .mypy_cache .ruff_cache .hypothesis
