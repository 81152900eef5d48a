# Everything that a fresh clone needs: each target sets up its own environment in $(VENV).

VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/python

.PHONY: help demo test check format clean

help:
	@echo "make demo    train and measure on real images, unfused against fused (under 10 minutes on 2 cores)"
	@echo "make test    run the test suite"
	@echo "make check   ruff, ruff format, mypy"
	@echo "make format  apply ruff's fixes and formatting"

demo: $(VENV)/ready
	$(RUN) -m benchmarks

test: $(VENV)/ready
	$(RUN) -m pytest -q -n auto

check: $(VENV)/ready
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

format: $(VENV)/ready
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/ready: pyproject.toml setup.py requirements/dev.txt requirements/without-dependencies.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements/dev.txt
	$(RUN) -m pip install --quiet --no-deps --requirement requirements/without-dependencies.txt
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@$(RUN) -c "from fused_resnet import backend; print('fused_resnet installed:', backend.summary())"
	@touch $@
