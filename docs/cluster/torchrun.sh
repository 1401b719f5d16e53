#!/bin/bash
# Training on several machines without a batch system: run this on each of them, with the same HEAD.
#   HEAD=10.77.0.1 NODES=2 bash docs/cluster/torchrun.sh
# With RESUME=1 it goes on from the checkpoint.
set -euo pipefail

HEAD=${HEAD:?address of one of the machines}
NODES=${NODES:?how many machines there are}
# One process for each GPU; of machines without a GPU one
PROCESSES=${PROCESSES:-gpu}
# Seen by all machines at one path
SHARDS=${SHARDS:-/data/shards}
RUN=${RUN:-/data/runs/cma}
CONFIG=${CONFIG:-pipeline.yaml}

torchrun --nnodes="$NODES" --nproc-per-node="$PROCESSES" \
    --rdzv-id=twinstream --rdzv-backend=c10d --rdzv-endpoint="$HEAD:29500" \
    -m twinstream.train -c "$CONFIG" --set shards.path="$SHARDS" --out "$RUN" ${RESUME:+--resume}
