#!/usr/bin/env bash
# Two machines without a scheduler: run this on each of them, with the address of the first.
#   HEAD=10.0.0.1 accelerate_configs/two_nodes.sh --config recipes/notes.yaml
# Both need the same clone, environment and input files at the same paths. torchrun numbers the machines itself; the
# notes and output_dir must be on a disk that both see, or the adapter is only on the machine that has rank 0.
set -euo pipefail
# Seconds that a stopped run has to end its step and write a checkpoint.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
: "${HEAD:?the address of the first machine, such as HEAD=10.0.0.1}"
exec torchrun \
    --nnodes "${NODES:-2}" \
    --nproc_per_node "${PROCESSES:-8}" \
    --rdzv_backend c10d \
    --rdzv_endpoint "$HEAD:${PORT:-29500}" \
    recipes/sft.py "$@"
