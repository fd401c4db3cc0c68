# Everything a developer runs; PYTHON names the interpreter that makes the virtual environment, JOBS says how
# many processes run the tests.
PYTHON ?= python3
BIN := .venv/bin
MINEDOJO := .venv/minedojo
JOBS ?= 2

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

# A file's tests stay together, for what its module fixtures cost; one thread each, or the processes stand in each
# other's way.
test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS) --dist loadfile

test-slow: install
	$(BIN)/pytest -q -m slow

# MineDojo's packages of 2022 need care, see docs/minedojo.md; they lie in an environment of their own over the other
# one, where no other test meets them. gym is built before that one is seen, whose
# setuptools it cannot stand. Its tests skip themselves without it, hence the last check.
$(MINEDOJO)/installed: .venv/installed
	$(PYTHON) -m venv --clear $(MINEDOJO)
	printf 'setuptools<66\nwheel<0.39\n' > $(MINEDOJO)/build.txt
	PIP_CONSTRAINT="$(CURDIR)/$(MINEDOJO)/build.txt" $(MINEDOJO)/bin/pip install -q --no-deps minedojo==0.1 gym==0.21.0
	$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> "$$($(MINEDOJO)/bin/python -c 'import site; print(site.getsitepackages()[0])')/worldloop_below.pth"
	$(MINEDOJO)/bin/pip install -q -c constraints.txt Pyro4 lxml jinja2 'omegaconf<2.4' importlib-resources \
		opencv-python-headless psutil cloudpickle coloredlogs daemoniker
	$(MINEDOJO)/bin/python -c 'from worldloop.envs.minedojo import MineDojoEnv; MineDojoEnv().close()'
	touch $@

test-minedojo: $(MINEDOJO)/installed
	$(MINEDOJO)/bin/python -m pytest -q tests/test_minedojo.py

# Where MineDojo cannot be installed, the rest counts.
check: lint test
	@if $(MAKE) $(MINEDOJO)/installed; then $(MAKE) test-minedojo; else \
		printf '\n%s\n%s\n\n' '*** MineDojo could not be installed (see above): ITS TESTS WERE NOT RUN.' \
			'*** make test-minedojo tries again; docs/minedojo.md says what it needs.'; fi

.PHONY: install demo lint test test-slow test-minedojo check
