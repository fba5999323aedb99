# make demo | test | fuzz | mutants | bench | figures | docs | lint     (Python >= 3.11; no compiler needed)
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python

.PHONY: demo test fuzz mutants bench host-scaling readme figures docs oldest lint clean

demo: $(VENV)/installed
	$(PY) -m meshkernels demo
	$(PY) -m plots
	$(PY) -m meshkernels generate "The capital of France is" --grid 24 --new 40

test: $(VENV)/installed-test
	$(PY) -m pytest

# the batteries against hostile files, command lines and moments, longer than the suite runs them
MINUTES ?= 20
SEED    ?= 1
fuzz: $(VENV)/installed-test
	$(PY) -m tests.fuzz --minutes $(MINUTES) --seed $(SEED)

# 10,000 changed schedules, each refused or right; the suite judges a sample
mutants: $(VENV)/installed-test
	$(PY) -m tests.mutants --cases 10000 --seed 0

bench: $(VENV)/installed-test
	$(PY) -m bench

# this machine's cost of a multiply-add, a byte, a local product, a step: measured, fitted, drawn
HOST := bench/results/host.json
host-scaling: $(VENV)/installed-test
	$(PY) -m pytest bench/bench_host.py -p no:cacheprovider --benchmark-json=$(HOST) --benchmark-columns=median,iqr
	$(PY) -m perfmodel fit $(HOST)
	$(PY) -m plots host_scaling

# renew the README's generated tables
readme: $(VENV)/installed
	$(PY) -m bench.readme

figures: $(VENV)/installed
	$(PY) -m plots

# the API reference, as pages to browse: build/docs/index.html
DOCUMENTED := meshkernels $(addprefix meshkernels.,schedules llm fabric files draw) perfmodel
docs: $(VENV)/bin/python
	$(PY) -m pip install --quiet --editable '.[llm,docs]'
	$(PY) -W error::UserWarning -m pdoc --docformat google --output-directory build/docs $(DOCUMENTED)

# The lower bounds of the dependencies are real: the suite on exactly these versions.
oldest:
	$(PYTHON) -m venv .venv-oldest
	sed -nE 's/^ *"([A-Za-z0-9_.-]+)>=([0-9.]+)",?$$/\1==\2/p' pyproject.toml > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet --editable '.[test]' --constraint .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pytest

lint: $(VENV)/installed-lint
	$(PY) -m ruff check .
	$(PY) -m mypy meshkernels perfmodel plots

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(PY) -m pip install --quiet --editable '.[llm]'
	touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	$(PY) -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/installed

$(VENV)/installed-lint: pyproject.toml | $(VENV)/bin/python
	$(PY) -m pip install --quiet --editable '.[test,lint]'
	touch $@

clean:
	rm -rf $(VENV) .venv-oldest figures build .pytest_cache .mypy_cache .ruff_cache .hypothesis
