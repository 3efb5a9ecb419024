# Two commands from a bare clone: `make demo` and `make test`. Both need python3 (3.11 or newer) only.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CXR    := $(BIN)/cxr
DATA   := data/demo
RUN    ?= outputs/demo
CODE   := cxr tests notebooks docs examples
export OMP_WAIT_POLICY ?= PASSIVE
# Python keeps compiled modules, whatever the caller's environment says: each notebook and each command is a
# process of its own, which would compile SciPy and matplotlib anew (10 s instead of 4).
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help hashes licences demo test lab weights notebooks parameters docs lint audit clean

# HASHED=1 checks each file that is downloaded against requirements.hashes. That takes all packages of that file,
# those of the tests and pages too: pip cannot check the hashes of some packages only, nor of an editable one.
PIP    := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check
EMPTY  :=
COMMA  := ,
ifdef HASHED
install = $(PIP) --require-hashes -r requirements.hashes && $(PIP) --no-deps --no-build-isolation -e .
else
install = $(PIP) -c requirements.lock -e '.[$(subst $(EMPTY) ,$(COMMA),$(1))]'
endif

# The text behind `##` is what `make help` prints.
help:  ## print this list
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## /\1|/' | awk -F'|' '{printf "make %-10s %s\n", $$1, $$2}'

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml requirements.lock
	@echo "installing (PyTorch is large: several GB, a few minutes)"
	$(call install,lab coco)
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(call install,lab coco test)
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(call install,lab docs)
	@touch $@

$(VENV)/.installed-audit: $(VENV)/.installed
	$(call install,lab audit)
	@touch $@

demo: $(VENV)/.installed  ## make the environment and the phantom data set, run the chain, print the score
	$(CXR) phantom $(DATA) --images 480 --size 512 --seed 0
	$(CXR) run params/demo.yaml

test: $(VENV)/.installed-test  ## install what the tests need, check style and format, run the tests
	$(BIN)/python -m ruff check $(CODE)
	$(BIN)/python -m ruff format --check $(CODE)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lab: $(VENV)/.installed  ## open the notebooks in JupyterLab
	$(BIN)/python -m cxr.lab $(RUN)
	$(BIN)/jupyter lab --LabApp.app_settings_dir='$(CURDIR)/jupyterlab' --LabApp.default_url=/lab/tree/notebooks/index.ipynb

notebooks: $(VENV)/.installed  ## write the .ipynb twins of the notebooks
	$(BIN)/jupytext --to ipynb notebooks/[0-9]*.py

parameters: $(VENV)/.installed  ## write docs/parameters.md from the code
	$(BIN)/python docs/parameter_reference.py

weights: $(VENV)/.installed  ## train the weights that ship with the package anew (half an hour)
	$(BIN)/python -m cxr.detector.training.pretrain

licences: $(VENV)/.installed-test  ## write docs/licences.md from the installed packages
	$(BIN)/python docs/licences.py

docs: $(VENV)/.installed-docs  ## build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open build/site/index.html"

lint: $(VENV)/.installed-test  ## check style, format and types
	$(BIN)/python -m ruff check $(CODE)
	$(BIN)/python -m ruff format --check $(CODE)
	$(BIN)/python -m mypy

hashes: $(VENV)/.installed-audit  ## write requirements.hashes for the versions of requirements.lock (needs a network)
	$(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11.9 --generate-hashes --no-annotate \
		--no-header --extra lab --extra coco --extra test --extra docs --extra build \
		-c requirements.lock pyproject.toml -o requirements.hashes

audit: $(VENV)/.installed-audit  ## look up known vulnerabilities of the locked versions (needs a network)
	$(BIN)/python -m pip_audit --strict --no-deps --disable-pip -r requirements.lock

clean:  ## remove the environment, the demo's data and its run, and what was built
	rm -rf $(VENV) $(DATA) outputs/demo build
