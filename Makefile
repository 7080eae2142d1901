# make demo: install into .venv and run the main experiment; make test: install with the test tools and run the tests.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
RUN := $(VENV)/bin/python

.PHONY: demo test lint clean

$(RUN):
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(RUN)
	$(RUN) -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(RUN)
	$(RUN) -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	touch $(VENV)/installed $@

demo: $(VENV)/installed
	$(RUN) -m lightning_transfer fit +experiment=news_to_movies

# One worker for each core; the tests of a file run in one worker, because they share fixtures.
test: $(VENV)/installed-dev
	$(RUN) -m pytest -n logical --maxprocesses 8 --dist loadfile

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) build dist *.egg-info outputs multirun
