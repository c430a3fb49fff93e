# Everything runs from here, as root or not; paths stay relative so that the project may lie anywhere.
PYTHON_IN_VENV := .venv/bin/python
UV_COMPILE := $(PYTHON_IN_VENV) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links
# Four at once, because most of them wait. Other arguments for pytest: `make test PYTEST="-k follow_ups -x"`.
PARALLEL := -n 4 --dist worksteal
PYTEST ?= $(PARALLEL) -m 'not faults and not long'
# The database server that everything here installs and starts: mariadb or mysql.
DATABASE ?= mariadb
export DATABASE

.PHONY: help setup demo up check test test-all faults lint types lock audit

help:
	@echo 'make setup   install what is missing: .venv, MariaDB'
	@echo 'make demo    one campaign of 200 leads from start to end (KEEP=1 leaves the stack running until Ctrl-C)'
	@echo 'make up      the embedded stack and a worker until Ctrl-C, printing the environment to use it'
	@echo 'make check   format, lint, types, and the tests that need no server, in a minute'
	@echo 'make test    the tests on the real parts, but for those that kill, freeze and cut them, and the longest'
	@echo 'make test-all   everything, the scenarios that kill, freeze and cut too; .ci/run runs it'
	@echo 'make faults  of these, the scenarios that kill, freeze and cut the real parts (FAULTS_LONG=1: more often and for longer)'
	@echo 'make lint, make types   ruff, mypy'
	@echo 'make audit   pins, hashes and age of the requirements, and known weaknesses where the network allows'
	@echo 'make lock    pin the requirements anew (UPGRADE=1: to the newest versions)'
	@echo 'with DATABASE=mysql behind it, each takes MySQL itself in place of MariaDB (on Debian)'

setup:
	@sh devstack/setup.sh

demo: setup
	@$(PYTHON_IN_VENV) -m devstack.demo

up: setup
	@$(PYTHON_IN_VENV) -m devstack.up

check: setup
	@$(PYTHON_IN_VENV) -m ruff format --check --quiet .
	@$(PYTHON_IN_VENV) -m ruff check --quiet .
	@$(PYTHON_IN_VENV) -m mypy
	@$(PYTHON_IN_VENV) -m pytest -n 2 -q -m 'not server and not faults and not long'

# Ends by itself: each test has a timeout, and so has the session (pyproject.toml).
test: setup
	@sh devstack/setup.sh browser
	@$(PYTHON_IN_VENV) -m pytest $(PYTEST)

test-all: setup
	@sh devstack/setup.sh browser
	@$(PYTHON_IN_VENV) -m pytest $(PARALLEL) --cov --cov-report=term --durations=20

# Workers, servers and connections killed, frozen and cut.
faults: setup
	@$(PYTHON_IN_VENV) -m pytest $(PARALLEL) -m faults $(FAULTS)

lint: setup
	@$(PYTHON_IN_VENV) -m ruff format --check .
	@$(PYTHON_IN_VENV) -m ruff check .

types: setup
	@$(PYTHON_IN_VENV) -m mypy

audit: setup
	@$(PYTHON_IN_VENV) -m devstack.audit

lock: setup
	@$(UV_COMPILE) $(if $(UPGRADE),--upgrade) --output-file requirements.lock requirements.in
	@$(UV_COMPILE) $(if $(UPGRADE),--upgrade) --output-file requirements-dev.lock requirements-dev.in
	@$(UV_COMPILE) $(if $(UPGRADE),--upgrade) --no-annotate --output-file benchmarks/celery.lock benchmarks/celery.in
