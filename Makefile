# What people and CI run. `make setup` once is implied by everything else and is quick when nothing changed.

SHELL := /bin/sh
VENV := build/venv
PY := $(VENV)/bin/python

# Some machines forbid bytecode or hand their own module path to every program; neither may colour a test.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH

# A change of the locked packages, of the project's metadata or of the list of system packages sets up anew.
SETUP_FROM := requirements.lock requirements-build.lock pyproject.toml packaging/install-needs.sh
STAMP := build/.setup-$(shell cat $(SETUP_FROM) | sha256sum | cut -c1-16)

.PHONY: help setup needs lint test fuzz mutants mutate model lab table demo rehearse campaign bench package package-test verdict-table lock clean

help:
	@echo 'make setup          system packages (as root, on Debian) and build/venv'
	@echo 'make test           setup, linters, types, import rules and all tests but the long lab cases'
	@echo 'make lint           the same without the tests'
	@echo 'make fuzz           SECONDS=600: coverage-guided fuzzing of every parser and message; goes on where it stopped'
	@echo 'make mutants        tests/mutants.toml: each rule dropped in the code in turn; its test must go red'
	@echo 'make mutate         FILES="core/pair core/claim.py": mutmut over what decides; goes on where it stopped; hours without FILES'
	@echo 'make model          the protocol as a Promela model: all states within large bounds, and each rule dropped in turn'
	@echo 'make lab            all lab cases on a real corosync, Pacemaker, Mosquitto and snmpd: a table, records and pictures'
	@echo '                    SEEDS=1-6: instead random faults of these seeds, there and in the deterministic world, compared'
	@echo 'make table          MINUTES=60 ROWS="ours stock/stp": pairguard and its rivals on the same freezes and deaths; goes on'
	@echo 'make demo           a network freeze on a small site on this machine, with and without the guard'
	@echo 'make rehearse       every scenario in the deterministic world, in full: results and pictures in build/rehearse'
	@echo 'make campaign       MINUTES=60: a million pair-freezes, 10,000 seeds of every other scenario and of any mixture; goes on where it stopped'
	@echo 'make bench          what things cost, each beside a floor of the same run; asserts nothing'
	@echo 'make package        the .deb and the .rpm in build/package, the same bit by bit for the same commit'
	@echo 'make package-test   both built twice, installed, upgraded and removed in a clean Debian 12; lintian and the rest'
	@echo 'make verdict-table  the whole verdict table as CSV'
	@echo 'make lock           choose newer packages: writes the lock files'
	@echo 'make clean          removes build/ and caches'

setup: $(STAMP)

$(STAMP):
	@sh packaging/install-needs.sh
	@python=$$(sh packaging/find-python.sh) && { $(PY) -c '' 2>/dev/null || "$$python" -m venv --clear $(VENV); }
	$(PY) -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r requirements-build.lock
	$(PY) -m pip install --quiet --quiet --disable-pip-version-check --require-hashes --no-build-isolation -r requirements.lock
	$(PY) -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm -f build/.setup-*
	@touch $@

needs:
	sh packaging/install-needs.sh

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# What starts brokers, daemons and clusters mostly waits, and comes first; what only computes takes what it leaves, and
# after it what builds.
PURE := tests/bench tests/core tests/fuzz tests/model $(filter-out tests/rehearsal/test_sandbox.py tests/cli/test_sandbox_hints.py, \
	$(wildcard tests/rehearsal/test_*.py tests/cli/test_*.py))
BUILT := tests/packaging tests/lab/test_rows.py
test: lint
	@failed=0; \
	{ nice -n 19 $(PY) -m pytest -n 2 --dist worksteal $(PURE); one=$$?; \
		nice -n 19 $(PY) -m pytest $(BUILT) && exit $$one; } >build/test-pure.txt 2>&1 & pure=$$!; \
	trap 'pkill -P $$pure; kill $$pure; exit 130' INT TERM HUP; \
	$(PY) -m pytest $(PURE:%=--ignore=%) $(BUILT:%=--ignore=%) || failed=1; \
	wait $$pure || failed=1; \
	cat build/test-pure.txt; \
	exit $$failed

SECONDS := 600
fuzz: setup
	nice -n 10 $(PY) -m tests.fuzz.run --seconds $(SECONDS) --out build/fuzz

mutants: setup
	$(PY) -m pytest -q tests/rehearsal/test_mutants.py

# The tool is no part of the setup: nothing else needs it, and it brings more packages than the project has.
FILES :=
mutate: setup
	$(PY) -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r requirements-mutate.lock
	nice -n 12 $(PY) -m tests.mutate $(FILES)

model: setup
	nice -n 10 $(PY) -m tests.model.run --out build/model

lab: setup
	$(if $(SEEDS),nice -n 5 $(PY) -m tests.lab.seeds.run --seeds '$(SEEDS)' --out build/lab/seeds,$(PY) -m tests.lab.cases --out build/lab)

table: setup
	$(PY) -m tests.lab.rows --out build/lab/rows $(if $(MINUTES),--minutes $(MINUTES)) $(ROWS)

demo: setup
	@if [ -e tests/lab/demo.py ] || [ -d tests/lab/demo ]; then $(PY) -m tests.lab.demo; else $(VENV)/bin/pairguard sandbox demo; fi

rehearse: setup
	$(PY) -m tests.rehearsal.budget --out build/rehearse

campaign: setup
	nice -n 19 $(PY) -m tests.rehearsal.campaign --out build/campaign $(if $(MINUTES),--minutes $(MINUTES))

bench: setup
	nice -n 5 $(PY) -m tests.bench.run

RELEASE := 1
package: setup
	packaging/build --release $(RELEASE)

package-test: setup
	@sh packaging/install-needs.sh package
	$(PY) -m pytest -m 'package_long or not package_long' tests/packaging

verdict-table: setup
	@$(PY) -m guard.cli.verdict_table

# Hashes come from the package index that pip's own settings name; no index is written into the files.
lock:
	@python=$$(sh packaging/find-python.sh) && "$$python" -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet uv
	build/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --all-extras pyproject.toml --output-file requirements.lock
	build/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --group build --output-file requirements-build.lock
	build/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --extra etcd --constraints requirements.lock pyproject.toml --output-file requirements-run.lock
	build/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --group package --output-file requirements-package.lock
	build/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --group mutate --constraints requirements.lock --output-file requirements-mutate.lock
	@rm -r build/lock

clean:
	rm -rf build mutants .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
