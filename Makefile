# What people and CI run. `make` alone lists it.
BIN := .venv/bin
READY := .venv/ready
PYTEST := $(BIN)/python -m pytest --durations=10
# Most tests wait more than they work. The tests of one file stay together, they share servers.
SIDE_BY_SIDE := --numprocesses=$(or $(WORKERS),4) --dist=loadfile
# Bars on time are meant for a machine that does nothing else: what failed beside another test is judged alone, once.
ALONE := --last-failed --last-failed-no-failures=none
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make lock" $(LOCK) pyproject.toml

# In CI a server that a test needs and cannot find is a failure, on a person's machine the test is left out by name.
ifdef CI
export MESHAGENT_REQUIRE_SERVERS := 1
endif

.DEFAULT_GOAL := help
.PHONY: help setup check formatted lint types floors sizes format servers deb test unit conformance system long soak bench demo vm-demo vm-demo-down docs lock clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY) ## .venv as the lock says, meshagent in it, type stubs for Envoy's messages (PYTHON=… to choose)

$(READY): requirements-dev.lock pyproject.toml meshagent/__init__.py scripts/setup.sh scripts/typings.py
	@bash scripts/setup.sh

check: formatted lint types floors sizes ## all of the next five (make -k check: do not stop at the first that fails)

formatted: $(READY) ## as `make format` would leave it
	$(BIN)/ruff format --check --output-format concise .

lint: $(READY) ## ruff's rules
	$(BIN)/ruff check --output-format concise .

types: $(READY) ## mypy
	@$(BIN)/python scripts/typings.py
	$(BIN)/mypy

floors: $(READY) ## who may import whom
	$(BIN)/lint-imports --no-logo

sizes: $(READY) ## files and functions that fit in a head
	$(BIN)/python scripts/sizes.py

format: $(READY) ## write the format, and fix what ruff can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

servers: ## Consul, etcd and cfssl for the tests, from Debian's packages into .servers/
	@scripts/servers

deb: $(READY) ## the Debian package, into dist/
	@packaging/deb/build

test: unit conformance system ## all tests

unit: $(READY) ## without network, seconds
	$(PYTEST) --numprocesses=2 --dist=loadfile tests/unit $(wildcard tests/golden tests/corpus)

conformance: $(READY) servers ## every store and CA against its protocol's suite
	$(PYTEST) $(SIDE_BY_SIDE) tests/conformance || $(PYTEST) $(ALONE) tests/conformance

system: $(READY) servers ## whole agents with real Envoys
	@packaging/rootfs >/dev/null
	$(PYTEST) $(SIDE_BY_SIDE) --no-loadscope-reorder -m "not long" tests/system || $(PYTEST) $(ALONE) -m "not long" tests/system

long: $(READY) servers ## system tests that need a minute of both cores each: the demo on VMs, all ready sets, 100 agents on etcd
	$(PYTEST) -m long tests/system

soak: $(READY) servers ## the faults with outages as long as they are in life (an hour; SOAK=0.1 for a tenth of it)
	MESHAGENT_SOAK=$(or $(SOAK),1) $(PYTEST) tests/system/test_faults_store.py tests/system/test_faults_host.py tests/system/test_rotation.py

bench: $(READY) ## the benchmarks (installs wrk, nginx, haproxy and valgrind with apt-get where they are missing; BENCH=propagation for one)
	@command -v wrk >/dev/null && command -v nginx >/dev/null && command -v haproxy >/dev/null && command -v valgrind >/dev/null || \
		(echo "installing wrk, nginx-light, haproxy and valgrind" && apt-get install -y -qq wrk nginx-light haproxy valgrind)
	$(BIN)/python -m bench $(BENCH)

demo: $(READY) ## the whole thing on this machine
	$(BIN)/meshagent demo

vm-demo: ## a mesh on three VMs of this machine, left running to play with (as root; STORE=etcd)
	@vm-demo/up.sh $(if $(STORE),--store $(STORE))

vm-demo-down: ## take every trace of it away
	@vm-demo/down.sh

docs: $(READY) ## write docs/reference from the code
	@$(BIN)/python scripts/docs.py

lock: $(READY) ## write both lock files from pyproject.toml (LOCK=--upgrade for the newest versions)
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --extra dev --constraint requirements.lock --output-file requirements-dev.lock

clean: ## remove all that these targets made
	rm -rf .venv .typings .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
		test-artifacts build dist meshagent.egg-info
	find meshagent tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
