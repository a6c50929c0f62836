# The one list of commands. `make run` and `make test` set up what they need.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Processes that run tests at once: more than two for each core, as many tests wait for time to pass.
JOBS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) * 2 + 1)')
PYTEST = $(BIN)/pytest -q -n $(JOBS) --dist loadfile

# Dependencies are those that were tested, whoever else may bring newer ones.
INSTALL = $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt

.PHONY: run test test-slow test-programs test-storm test-further check lint types layers coverage bench bench-growth bench-scale map dist fuzz soak mutants \
	mutants-random readme audit constraints clean

run: $(VENV)/run.done
	@$(BIN)/gunicorn -c gunicorn.conf.py

# Bytecode is kept, whatever the environment says: tests start hundreds of interpreters, and each
# process that runs tests would compile all of them again.
test coverage: export PYTHONDONTWRITEBYTECODE =

test: $(VENV)/test.done
	@$(PYTEST) -m "not slow and not long"

# Three at once, as they wait most of the time. Those that start servers by the dozen have two
# processes to themselves, and those that measure run alone.
test-slow: $(VENV)/test.done
	$(BIN)/pytest -q -n 3 --dist loadfile --timeout 600 -m "(slow or long) and not further" \
		--ignore=tests/bench --ignore=tests/state
	$(BIN)/pytest -q -n 2 --dist loadfile --timeout 600 -m "(slow or long) and not further" tests/state
	$(BIN)/pytest -q -m "(slow or long) and not further" tests/bench

# Other people's programs that call the gateway, each over every kind of upstream.
test-programs: $(VENV)/test.done
	$(BIN)/pytest -q tests/programs

# 200 reloads under 50 callers, in every way of starting.
test-storm: $(VENV)/test.done
	$(BIN)/pytest -q tests/e2e/test_reload_storm.py

# What `make test-slow` has no time for, but for programs and storms.
test-further: $(VENV)/test.done
	$(BIN)/pytest -q -m further --ignore=tests/programs --ignore=tests/e2e/test_reload_storm.py

# Types are checked while tests run, which leave a core idle now and then.
check: lint layers
	$(MAKE) --no-print-directory -j 2 types coverage

lint: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.done
	$(BIN)/mypy

layers: $(VENV)/test.done
	$(BIN)/lint-imports

coverage: $(VENV)/test.done
	rm -f .coverage .coverage.*
	$(PYTEST) -m "not slow and not long" --cov --cov-report=term

# PEERS=litellm,portkey,vllm-router measures those too, installed into a cache of their own.
bench: $(VENV)/test.done
	$(BIN)/python -m bench $(if $(PEERS),--peers $(PEERS))

bench-growth: $(VENV)/test.done
	$(BIN)/python -m bench growth

# What one pool over many processes costs; needs a redis-server.
bench-scale: $(VENV)/test.done
	$(BIN)/python -m bench scale

# The modules that one streamed request goes through, printed and put into docs/ARCHITECTURE.md.
map: $(VENV)/test.done
	@$(BIN)/python -m bench.map docs/ARCHITECTURE.md

# What is handed out, in dist/: an sdist with all that the repository has, and a wheel made of it.
dist: $(BIN)/pip
	rm -rf dist
	$(BIN)/pip install -q --disable-pip-version-check build
	$(BIN)/python -m build

# N examples for each input that comes from outside.
fuzz: $(VENV)/test.done
	$(BIN)/python -m tests.fuzz $(N)

# Everything at once for ten minutes, or for SOAK_SECONDS; STATE=1: with one pool for all workers.
soak: $(VENV)/test.done
	$(BIN)/python -m tests.soak $(if $(STATE),--state)

# Breaks the code in many places and shows that a test falls for each.
mutants: $(VENV)/test.done
	$(BIN)/python -m tests.mutants

# Breaks N random places, the same ones for the same SEED; ROOM=proxy/wire breaks that part only.
mutants-random: $(VENV)/test.done
	$(BIN)/python -m tests.mutation $(if $(N),-n $(N)) $(if $(SEED),--seed $(SEED)) --jobs $(JOBS) \
		$(if $(TESTS),--tests $(TESTS) --) $(ROOM)

# The tables of the configuration's keys in docs/configuration.md, and the README's figures.
readme: $(VENV)/test.done
	$(BIN)/python -m tests.support.key_tables
	$(BIN)/python -m tests.support.figures

# Known problems of the runtime dependencies.
audit: $(VENV)/test.done
	$(BIN)/python -m tests.security.audit

# The newest versions that fit together on every Python from 3.10 on; pip itself sees only its own.
constraints: $(BIN)/pip
	$(BIN)/pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip compile -q --no-python-downloads --upgrade --universal --python-version 3.10 --extra test --no-annotate \
		--custom-compile-command "make constraints" -o constraints.txt setup.cfg

$(VENV)/run.done: setup.cfg pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing the gateway and what it needs ..."
	@$(INSTALL) -e .
	@touch $@

$(VENV)/test.done: setup.cfg pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing the gateway, what it needs and what tests it ..."
	@$(INSTALL) -e '.[test]'
	@touch $@

$(BIN)/pip:
	@echo "creating a virtual environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .mutants
