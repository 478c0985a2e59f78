#!/bin/bash
# Submit from the project's folder, on a file system that all nodes share:
#   sbatch experiments/clusters/slurm.sh
#SBATCH --job-name=rsas-resnet18
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=08:00:00
# Two minutes before the time is up this shell (B:) gets SIGTERM, saves, and queues itself again.
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

name=resnet18
options=(
  --trials 64
  --scheduler pareto_asha
  --cpus 4
  --gpus 0.5
)

cd "$SLURM_SUBMIT_DIR" || exit
. .venv/bin/activate || exit
export RSAS_WORKSPACE="$PWD/runs"

# A token of this job alone; srun hands it to every node.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN
# Importing Ray from a shared file system takes longer than the default of 30 seconds.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# The head is the node on which this shell runs, too, so the sweep can be told to stop from here.
# srun would pass a signal to Ray as well, which then dies before the sweep has saved.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
requeue() {
  trap '' TERM
  sh experiments/clusters/launch.sh --stop "$name"
  # Ray then ends by itself; killed halfway it may be in the way of the next start.
  for _ in {1..30}; do
    kill -0 "$step" 2>/dev/null || break
    sleep 1
  done
  # scancel ends up here, too, and means it.
  if [ "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)" = RUNNING ]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit 0
}
step=
trap requeue TERM

# In the background: bash would run the trap only after srun had ended.
srun --export=ALL --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$SLURM_GPUS_ON_NODE" -- \
  sh experiments/clusters/launch.sh "$name" experiments/published.py:resnet18_cifar10 "${options[@]}" &
step=$!
wait "$step"
