# Two commands from a bare clone: `make demo` and `make test`. Both need python3 (3.11 or newer) only.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CXR    := $(BIN)/cxr
DATA   := data/demo
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo test lab notebooks lint clean

help:
	@echo "make demo       make the environment and the phantom data set, run the chain, print the score"
	@echo "make test       install what the tests need and run them"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make notebooks  write the .ipynb twins of the notebooks"
	@echo "make lint       check style"
	@echo "make clean      remove the environment, the demo's data and its run"

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml requirements.lock
	@echo "installing (PyTorch is large: several GB, a few minutes)"
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c requirements.lock -e '.[lab]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c requirements.lock -e '.[lab,test]'
	@touch $@

demo: $(VENV)/.installed
	$(CXR) phantom $(DATA) --images 480 --size 512 --seed 0
	$(CXR) run params/demo.yaml

test: $(VENV)/.installed-test
	$(BIN)/python -m ruff check cxr tests notebooks
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lab: $(VENV)/.installed
	$(BIN)/jupyter lab notebooks

notebooks: $(VENV)/.installed
	$(BIN)/jupytext --to ipynb notebooks/[0-9]*.py

lint: $(VENV)/.installed-test
	$(BIN)/python -m ruff check cxr tests notebooks
	$(BIN)/python -m ruff format --check cxr tests notebooks

clean:
	rm -rf $(VENV) $(DATA) outputs/demo
