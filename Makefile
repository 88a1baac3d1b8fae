# Everything here does its own set-up: Python 3.11 or newer with venv and pip, make and gcc are enough.
#   make demo        distil the nano teacher into an 8-step student, and report (15 minutes, two cores)
#   make test        the tests that need no PyTorch          make lint       ruff and ty
#   make test-torch  the tests that run PyTorch itself       make data       fetch and build the shards
#   make test-beam   the tests that run Apache Beam          make nano       train the nano family again
# DEVICE=cuda or DEVICE=tpu installs JAX for that device. PYTHON names the interpreter to start from.

PYTHON ?= python3
DEVICE ?= cpu
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python
INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PACKAGE = .[$(1)$(if $(filter-out cpu,$(DEVICE)),$(comma)$(DEVICE))]
comma := ,

.PHONY: demo test test-torch test-beam lint format data nano constraints clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-demo
	$(RUN) -m train.distill --config configs/nano/distill.py --workdir runs/demo $(ARGS)

test: $(VENV)/.installed-test
	$(RUN) -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-torch: .venv-torch/.installed
	.venv-torch/bin/python -m pytest -m torch $(ARGS)

test-beam: .venv-beam/.installed
	.venv-beam/bin/python -m pytest -m beam tests/beam $(ARGS)

# What is on disk already is not made again.
data: $(VENV)/.installed-nano
	$(RUN) -m acestep_jax.data.make --data_dir data $(ARGS)

# The nano family from nothing: each file below is made by the line under it, from those it names.
# The weights in the package are replaced by what was trained.
NANO := acestep_jax/assets/nano
WORK := runs/nano
START = --set model.weights=$(WORK)/$(1)/export/model \
  --set model.text_weights=$(WORK)/$(1)/export/text_encoder

nano: $(WORK)/distill/report.html $(WORK)/.planner

$(WORK)/.audio: $(VENV)/.installed-nano
	$(RUN) -m acestep_jax.data.make --data_dir data --stages fetch render
	@mkdir -p $(WORK) && touch $@

$(WORK)/.vae: $(WORK)/.audio
	$(RUN) -m train.vae --config configs/nano/vae.py --workdir $(WORK)/vae
	@touch $@

$(WORK)/.levels: $(WORK)/.vae
	$(RUN) -m train.vae --config configs/nano/vae_levels.py --workdir $(WORK)/levels \
	  --set weights=$(WORK)/vae/vae
	mkdir -p $(NANO)/vae && cp -r $(WORK)/levels/vae/. $(NANO)/vae
	@touch $@

$(WORK)/.shards: $(WORK)/.levels
	$(RUN) -m acestep_jax.data.vocabulary --out $(NANO)/text_encoder
	rm -rf data/shards
	$(RUN) -m acestep_jax.data.make --data_dir data --stems --stages prepare embed
	@touch $@

$(WORK)/.text: $(WORK)/.shards
	$(RUN) -m train.text_encoder --config configs/nano/text_encoder.py --workdir $(WORK)/text
	cp -r $(WORK)/text/export/text_encoder/. $(NANO)/text_encoder
	@touch $@

$(WORK)/.dit: $(WORK)/.text
	$(RUN) -m train.dit --config configs/nano/dit.py --workdir $(WORK)/dit \
	  --set model.text_weights=$(WORK)/text/export/text_encoder
	@touch $@

$(WORK)/.tasks: $(WORK)/.dit
	$(RUN) -m train.dit --config configs/nano/dit_tasks.py --workdir $(WORK)/tasks \
	  $(call START,dit)
	@touch $@

$(WORK)/.tokenizer: $(WORK)/.tasks
	$(RUN) -m train.tokenizer --config configs/nano/tokenizer.py --workdir $(WORK)/tokenizer \
	  $(call START,tasks)
	@touch $@

$(WORK)/.codes: $(WORK)/.tokenizer
	$(RUN) -m acestep_jax.data.add_codes --shards data/shards/own --out data/shards/codes \
	  --model $(WORK)/tokenizer/export/model --shifts 5
	@touch $@

$(WORK)/.planner: $(WORK)/.codes
	$(RUN) -m train.planner --config configs/nano/planner.py --workdir $(WORK)/planner
	mkdir -p $(NANO)/acestep-5Hz-lm-nano
	cp -r $(WORK)/planner/export/. $(NANO)/acestep-5Hz-lm-nano
	@touch $@

$(WORK)/.pulse: $(WORK)/.tokenizer
	$(RUN) -m train.dit --config configs/nano/dit_pulse.py --workdir $(WORK)/pulse \
	  $(call START,tokenizer)
	@touch $@

$(WORK)/.covers: $(WORK)/.pulse
	$(RUN) -m train.dit --config configs/nano/dit_covers.py --workdir $(WORK)/covers \
	  $(call START,pulse)
	mkdir -p $(NANO)/acestep-v15-nano
	cp -r $(WORK)/covers/export/model/. $(NANO)/acestep-v15-nano
	@touch $@

$(WORK)/distill/report.html: $(WORK)/.covers
	$(RUN) -m train.distill --config configs/nano/distill.py --workdir $(WORK)/distill
	$(RUN) -m acestep_jax.weights $(WORK)/distill/export/model $(NANO)/acestep-v15-nano \
	  $(NANO)/acestep-v15-nano-turbo --name ../acestep-v15-nano

# One environment, extended by stamps: each says which extras are in.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing acestep-jax[$*] into $(VENV), about a minute ..."
	@$(RUN) $(INSTALL) --editable "$(call PACKAGE,$*)"
	@touch $@

# PyTorch stays out of .venv: a second environment sees the first and adds to it.
.venv-torch/.installed: $(VENV)/.installed-test
	$(PYTHON) -m venv .venv-torch
	@echo "import site; site.addsitedir('$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > $$(.venv-torch/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/acestep_jax_base.pth
	@echo "Installing PyTorch into .venv-torch ..."
	@.venv-torch/bin/python $(INSTALL) torch==2.13.0 diffusers==0.42.1 peft==0.21.2
	@touch $@

# Beam stays out of .venv too: it holds protobuf and pyarrow back.
.venv-beam/.installed: $(VENV)/.installed-test
	$(PYTHON) -m venv .venv-beam
	@echo "import site; site.addsitedir('$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > $$(.venv-beam/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/acestep_jax_base.pth
	@echo "Installing Apache Beam into .venv-beam ..."
	@.venv-beam/bin/python -m pip install --quiet --disable-pip-version-check "apache-beam>=2.77,<3"
	@touch $@

# The versions that were tested together, for every Python at once, without PyTorch's own pins.
constraints: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --universal --no-header --no-annotate --quiet \
	  $(foreach extra,data audio train quant export dev torch,--extra $(extra)) \
	  $(foreach name,torch triton,--no-emit-package $(name)) --output-file constraints.txt
	sed -i '/^nvidia-/d' constraints.txt

clean:
	rm -rf $(VENV) .venv-torch .venv-beam *.egg-info .pytest_cache .ruff_cache
