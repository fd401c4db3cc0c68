# Everything a developer runs; PYTHON names the interpreter that makes the virtual environment.
PYTHON ?= python3
BIN := .venv/bin

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

install: .venv/installed

demo: install
	$(BIN)/worldloop demo

# mypy names a package after its folder; a link outside gives it the right name wherever the checkout lies.
lint: install
	$(BIN)/ruff check .
	link=$$(mktemp -d) && ln -s "$(CURDIR)" $$link/worldloop && mypy="$(CURDIR)/$(BIN)/mypy" && cd $$link && \
		$$mypy --config-file worldloop/pyproject.toml worldloop; status=$$?; rm -r $$link; exit $$status

test: install
	$(BIN)/pytest -q

test-slow: install
	$(BIN)/pytest -q -m slow

# MineDojo's packages of 2022 need care, see docs/minedojo.md; without them most of its tests are skipped.
test-minedojo: install
	printf 'setuptools<66\nwheel<0.39\n' > .venv/minedojo-build.txt
	PIP_CONSTRAINT="$(CURDIR)/.venv/minedojo-build.txt" $(BIN)/pip install -q --no-deps minedojo==0.1 gym==0.21.0
	$(BIN)/pip install -q -c constraints.txt Pyro4 lxml jinja2 'omegaconf<2.4' importlib-resources \
		opencv-python-headless psutil cloudpickle coloredlogs daemoniker
	$(BIN)/pytest -q tests/test_minedojo.py

check: lint test

.PHONY: install demo lint test test-slow test-minedojo check
