# Two commands for users: `make demo` and `make test`. Both set up .venv on a fresh machine.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo test test-slow lint clean

.venv: .venv/ready
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/ready
	$(PY) -m actune demo

lint: .venv/ready
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

test: lint
	$(PY) -m pytest -m 'not slow' -n 2 --durations 10

test-slow: .venv/ready
	$(PY) -m pytest -m slow --durations 20

clean:
	rm -rf .venv build dist
