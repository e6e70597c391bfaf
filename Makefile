# make help says what there is. The first call makes .venv and installs into it, a later one does not.
#
#   PYTHON=python3.12   the Python that makes .venv (3.11 or newer)
#   PIP_FLAGS="..."     more options for pip install, e.g. -v, or an index with a CPU-only torch:
#                       PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_FLAGS ?=

PY := .venv/bin/python
# Written when the installation is complete. It holds the directory: a moved checkout installs again.
STAMP := .venv/.installed
# Written when .venv is made. A .venv without it is somebody's own, and stays.
OURS := .venv/.made-by-make

.PHONY: help book test check site pdf lab notebooks numbers experiments bench wheel-test compat links lint pins clean FORCE

help:
	@echo "make book         build the book into _build/html; a warning is an error"
	@echo "make test         run the unit tests and compare every notebook with its stored outputs"
	@echo "make check        parse the built book, and use every page of it in Chromium"
	@echo "make site         build the book and pack it as one zip that opens without a server"
	@echo "make pdf          build the book and print it, if Chromium is there"
	@echo "make lab          open JupyterLab on book/"
	@echo "make notebooks    run every notebook again and store its outputs"
	@echo "make numbers      write the numbers of figures, equations and exercises into the links to them"
	@echo "make experiments  run what is missing of the recorded experiments; goes on where it stopped"
	@echo "make bench        measure speed and memory side by side with timm, and record it"
	@echo "make wheel-test   run every chapter with only the wheel installed"
	@echo "make compat       test every Python that is found, with the pinned, the newest and the lowest versions (hours)"
	@echo "make links        ask every link of the book whether it still answers"
	@echo "make lint         check the code with ruff and mypy, and the pages by the rules of the book"
	@echo "make pins         renew constraints.txt, with uv"
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
	@[ ! -e .venv -a ! -L .venv ] || [ -e $(OURS) ] || [ -e $(STAMP) ] || { \
	  echo "there is a .venv here that make did not make, and it stays as it is: remove it (rm -r .venv) or move it" \
	    "away, then call make again; to use it without make: pip install -c constraints.txt -e '.[book,test]'"; exit 1; }
	@{ $(WHOLE); } || { rm -rf .venv && mkdir .venv && touch $(OURS) && "$(PYTHON)" -m venv .venv; }
	@rm -f $(STAMP)
	@echo "Installing into .venv (once; a few minutes, most of them for PyTorch) ..."
	@pins=$$($(PY) -c 'import sys; print("-c constraints.txt" * (sys.version_info < (3, 15)))'); \
	  [ -n "$$pins" ] || echo "constraints.txt was tested up to Python 3.14: on this one pip chooses the versions itself"; \
	  $(PY) -m pip install -qq --no-input --disable-pip-version-check $$pins $(PIP_FLAGS) -e '.[book,test]'
	@pwd -P > $(STAMP)
	@for file in pyproject.toml constraints.txt; do \
	  if [ $$file -nt $(STAMP) ]; then touch -r $$file $(STAMP); fi; done # its date may lie in the future

# --all: a page that is not built again would not repeat its warning, and the second call would pass.
book: $(STAMP)
	@echo "Building the book ..."
	@.venv/bin/jupyter-book build . --all -q -n -W --keep-going >/dev/null
	@echo "Open $$(pwd)/_build/html/index.html"

# A worker for each core, but memory for eight at the most; a file's tests, a notebook's cells, stay together. The tests
# of the built book come after it: make check.
test: $(STAMP)
	@$(PY) -m pytest -n logical --maxprocesses 8 --dist loadfile --ignore=tests/browser --ignore=tests/test_site.py

check: $(STAMP)
	@$(PY) -m pytest -q -rs tests/test_site.py tests/browser

site: book
	@$(PY) scripts/publish.py zip

pdf: book
	@$(PY) scripts/publish.py pdf

lab: $(STAMP)
	@$(PY) -m jupyterlab book

# After chapters, figures or equations have moved: the numbers that links write out.
numbers: $(STAMP)
	@CONVIT_EDU_NUMBERS=write .venv/bin/jupyter-book build . --all -q -n -W --keep-going >/dev/null
	@echo "The numbers in links are those of figures, equations and exercises as they stand now."

notebooks: $(STAMP)
	@CONVIT_EDU_PROGRESS=0 MPLBACKEND= $(PY) -m nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.kernel_name=python3 --ExecutePreprocessor.timeout=300 \
	  --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False book/*.ipynb
	@$(PY) scripts/tidy_notebooks.py book/*.ipynb
	@$(PY) scripts/front_picture.py

experiments: $(STAMP)
	@$(PY) -m convit_edu run all --out convit_edu/recorded

bench: $(STAMP)
	@$(PY) benchmarks/attention.py
	@$(PY) benchmarks/training.py
	@$(PY) benchmarks/model.py --full --precision float32 --out convit_edu/recorded/benchmarks/model-cpu.json --device cpu

wheel-test: $(STAMP)
	@CONVIT_EDU_ALL_CHAPTERS=1 $(PY) -m pytest tests/test_wheel.py

compat:
	@"$(PYTHON)" scripts/compat.py

links: $(STAMP)
	@.venv/bin/jupyter-book build . --builder linkcheck --all -q

lint: $(STAMP)
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(PY) scripts/lint_book.py

# torch itself says which of NVIDIA's libraries it needs.
pins:
	@uv pip compile -q --universal --upgrade --python-version 3.11 --extra book --extra test --no-annotate --no-header \
	  pyproject.toml -o constraints.new
	@{ grep '^#' constraints.txt; grep -Ev '^(cuda|nvidia|triton)-?' constraints.new; } > constraints.txt.new
	@rm constraints.new; mv constraints.txt.new constraints.txt

clean:
	@rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	@find book convit_edu tests \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
