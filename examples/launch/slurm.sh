#!/usr/bin/env bash
# One run on two machines of a Slurm cluster:  sbatch slurm.sh
#
# Slurm starts one torchrun on each machine, and each torchrun starts one process for each GPU. Change the lines below
# to what your cluster has. Slurm sends SIGTERM five minutes before the time is over: heed saves the step and ends if
# that takes less than 30 seconds, which is how long torchrun waits (newer ones take --shutdown-timeout 280). What takes
# longer is lost back to the last checkpoint, see --save-every. sbatch the same file again and the run goes on.
#SBATCH --job-name=heed
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --output=heed-%j.log
set -euo pipefail

# All processes meet on the first machine of the job, at a port that follows from the job's number, so that two jobs on
# one machine do not meet each other.
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
PORT=$((20000 + SLURM_JOB_ID % 20000))
export HEAD PORT

# In single quotes: SLURM_NODEID is another number on each machine, so each machine is to read it, not this script.
# shellcheck disable=SC2016
srun bash -c 'torchrun \
  --nnodes "$SLURM_JOB_NUM_NODES" --node-rank "$SLURM_NODEID" --nproc-per-node "${GPUS:-8}" \
  --master-addr "$HEAD" --master-port "$PORT" \
  -m heed sft --model "${MODEL:-Qwen/Qwen2.5-7B}" --data "${DATA:-/shared/data.jsonl}" --out "${OUT:-/shared/runs/first}"'
