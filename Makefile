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

check: lint test

.PHONY: install demo lint test test-slow check
