#!/usr/bin/env bash
# One run on two machines. Start this on both, at about the same time:
#
#   on the first machine:   HEAD=10.0.0.1 NODE=0 ./two_machines.sh
#   on the second machine:  HEAD=10.0.0.1 NODE=1 ./two_machines.sh
#
# HEAD is an address of the first machine that the second can reach; PORT must be free there. Both machines need the
# same heed and torch, the same data, and one disk that both see: OUT is a folder on it. When a machine fails, the
# others end within a minute; start the same lines again and the run goes on from its last checkpoint, also with
# another number of machines or GPUs.
set -euo pipefail

: "${HEAD:?an address of the first machine}" "${NODE:?0 on the first machine, 1 on the second}"

torchrun \
  --nnodes "${NODES:-2}" --node-rank "$NODE" --nproc-per-node "${GPUS:-8}" \
  --master-addr "$HEAD" --master-port "${PORT:-29500}" \
  -m heed sft --model "${MODEL:-Qwen/Qwen2.5-7B}" --data "${DATA:-/shared/data.jsonl}" --out "${OUT:-/shared/runs/first}"
