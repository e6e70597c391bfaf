# make book | test | check | site | pdf | lab | notebooks | experiments | bench | wheel-test | lint | clean. The first call installs into .venv, a later one does not.
#
#   PYTHON=python3.12   the Python that makes .venv (3.11 or newer)
#   PIP_FLAGS="..."     more options for pip install, e.g. -v, or an index with a CPU-only torch:
#                       PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_FLAGS ?=

PY := .venv/bin/python
# Written when the installation is complete. It holds the directory: a moved checkout installs again.
STAMP := .venv/.installed

.PHONY: help book test check site pdf lab notebooks experiments bench wheel-test lint clean FORCE

help:
	@echo "make book         build the book into _build/html; a warning is an error"
	@echo "make test         run the unit tests and compare every notebook with its stored outputs"
	@echo "make check        parse the built book, and use every page of it in Chromium"
	@echo "make site         build the book and pack it as one zip that opens without a server"
	@echo "make pdf          build the book and print it, if Chromium is there"
	@echo "make lab          open JupyterLab on book/"
	@echo "make notebooks    run every notebook again and store its outputs"
	@echo "make experiments  run what is missing of the recorded experiments; goes on where it stopped"
	@echo "make bench        measure speed and memory side by side with timm, and record it"
	@echo "make wheel-test   run every chapter with only the wheel installed"
	@echo "make lint         check the code with ruff"
	@echo "make clean        remove what was built (what was installed: rm -r .venv)"
	@echo "The first call makes .venv and installs into it. Options: PYTHON=python3.12 PIP_FLAGS=..."

# True in sh if .venv is whole: its Python starts, and the last installation into it finished, and here.
WHOLE = $(PY) -c "" 2>/dev/null && [ "$$(cat $(STAMP) 2>/dev/null)" = "$$(pwd -P)" ]

ifneq ($(shell $(WHOLE) && echo yes),yes)
$(STAMP): FORCE
endif

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c "" 2>/dev/null || { \
	  echo "'$(PYTHON)' does not start:" \
	    "install Python 3.11 or newer, or name the one to use, e.g. make book PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
	  echo "'$(PYTHON)' is $$("$(PYTHON)" --version 2>&1), but this needs Python 3.11 or newer:" \
	    "name one, e.g. make book PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c "import ensurepip, venv" 2>/dev/null || { \
	  echo "'$(PYTHON)' has no venv module: install it (Debian and Ubuntu: apt install python3-venv)," \
	    "or name another Python, e.g. make book PYTHON=python3.12"; exit 1; }
	@{ $(WHOLE); } || { rm -rf .venv && "$(PYTHON)" -m venv .venv; }
	@rm -f $(STAMP)
	@echo "Installing into .venv (once; a few minutes, most of them for PyTorch) ..."
	@pins=$$($(PY) -c 'import sys; print("-c constraints.txt" * (sys.version_info[:2] == (3, 11)))'); \
	  $(PY) -m pip install -qq --no-input --disable-pip-version-check $$pins $(PIP_FLAGS) -e '.[book,test]'
	@pwd -P > $(STAMP)

# --all: a page that is not built again would not repeat its warning, and the second call would pass.
book: $(STAMP)
	@echo "Building the book ..."
	@.venv/bin/jupyter-book build . --all -q -n -W --keep-going >/dev/null
	@echo "Open $$(pwd)/_build/html/index.html"

# The tests of the built book come after it: make check.
test: $(STAMP)
	@$(PY) -m pytest --ignore=tests/browser --ignore=tests/test_site.py

check: $(STAMP)
	@$(PY) -m pytest -q -rs tests/test_site.py tests/browser

site: book
	@$(PY) scripts/publish.py zip

pdf: book
	@$(PY) scripts/publish.py pdf

lab: $(STAMP)
	@$(PY) -m jupyterlab book

notebooks: $(STAMP)
	@CONVIT_EDU_PROGRESS=0 MPLBACKEND= $(PY) -m nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.kernel_name=python3 --ExecutePreprocessor.timeout=300 \
	  --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False book/*.ipynb
	@$(PY) scripts/lighten_pictures.py book/*.ipynb
	@$(PY) scripts/front_picture.py

experiments: $(STAMP)
	@$(PY) -m convit_edu run all --out convit_edu/recorded

bench: $(STAMP)
	@$(PY) benchmarks/attention.py
	@$(PY) benchmarks/training.py
	@$(PY) benchmarks/model.py --full --precision float32 --out convit_edu/recorded/benchmarks/model-cpu.json --device cpu

wheel-test: $(STAMP)
	@CONVIT_EDU_ALL_CHAPTERS=1 $(PY) -m pytest tests/test_wheel.py

lint: $(STAMP)
	@$(PY) -m ruff check .

clean:
	@rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache
	@find book convit_edu tests \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
