# Every target makes .venv if it is missing, so each works on a fresh clone with only Python 3.11.
PYTHON ?= python3.11
BUNDLE ?= ct_slice_interpolation
PY := .venv/bin/python
export HF_HUB_OFFLINE = 1

.PHONY: demo test test-slow test-notebooks test-clients bench lint install
install: .venv/installed

# torch goes in first and alone: with it in place nothing else can pull a CUDA build in.
.venv/installed: pyproject.toml
	@echo "installing into .venv (about two minutes)"
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev,tune,llm]'
	@touch $@

demo: install
	$(PY) -m common demo --bundle $(BUNDLE)

# A process for each core, each on one thread (tests/conftest.py).
test: install
	$(PY) -m pytest -n auto

test-slow: install
	$(PY) -m pytest -m slow

test-notebooks: install
	$(PY) -m pytest -m notebook

test-clients: install
	$(PY) -m pytest -m client

bench: install
	for script in benchmarks/*.py; do $(PY) $$script || exit 1; done

lint: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
