# Two commands for users: `make demo` and `make test`. Both set up .venv on a fresh machine.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo test test-slow install lint types spelling docs licences wheel tests clean

# What the README uses; the tools of the tests are twice as much to install.
.venv/used: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[serve]'
	touch $@

# xgrammar asks for triton, 1 GB of compilers for GPUs, which our tests do without: the rest of its needs is in `dev`.
.venv/ready: .venv/used
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps 'xgrammar>=0.2.8'
	touch $@

demo: .venv/used
	$(PY) -m actune demo

test:
	./.ci/run

test-slow: .venv/ready
	$(PY) -m pytest -m slow --durations 20

# The stages of `make test`, one by one.
install: .venv/ready

lint: .venv/ready
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

types: .venv/ready
	$(PY) -m mypy

spelling: .venv/ready
	git ls-files -z | xargs -0 $(PY) -m codespell_lib

docs: .venv/ready
	@# Not --quiet: it would hide the warnings that --strict counts.
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

wheel: .venv/ready
	$(PY) -m pytest -m wheel --durations 3

tests: .venv/ready
	$(PY) -m pytest -m 'not slow and not wheel' -n 2 --durations 10 --cov --cov-report term:skip-covered

# Checks the list; `.venv/bin/python .ci/licences.py --write` writes it when a dependency comes or goes.
licences: .venv/ready
	$(PY) .ci/licences.py

clean:
	rm -rf .venv build dist
