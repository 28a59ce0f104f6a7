#!/usr/bin/env bash
#SBATCH --job-name=rlaif-ray
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem-per-cpu=2G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --output=rlaif-ray-%j.log
# sbatch cluster/slurm.sh homegrid --run.name try1 --resources.env-runners 32
# From a checkout with its .venv on a file system that all nodes share; the words go to `rlaif-ray train`. A GPU for the
# learner: sbatch --gpus-per-node=1 cluster/slurm.sh ... A run that the time limit stopped: ... slurm.sh --resume runs/try1
#
# A judge's key: a file of lines NAME=VALUE, mode 600, at $RLAIF_RAY_ENV or ~/.config/rlaif_ray/env.
set -euo pipefail
umask 077
cd "$SLURM_SUBMIT_DIR"
source "${RLAIF_RAY_VENV:-.venv}/bin/activate"

# Ray's nodes know each other by a token of this job's own.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SLURM_JOB_ID"
python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"
driver=""
cleanup() {
  trap - EXIT
  local started
  started="$(jobs -p)"
  [ -z "$started" ] || kill $started 2>/dev/null || true
  rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap cleanup EXIT
trap '[ -z "$driver" ] || kill -TERM "$driver"' TERM # near the time limit: a checkpoint, then the end

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${nodes[0]}" count="${#nodes[@]}"
export RAY_ADDRESS="$head:$((20000 + SLURM_JOB_ID % 10000))"

# Half of the head's CPUs are for runners; the other half learns, draws and asks.
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --block --port="${RAY_ADDRESS##*:}" \
  --num-cpus="$((SLURM_CPUS_PER_TASK / 2))" --include-dashboard=false --disable-usage-stats &
if [ "$count" -gt 1 ]; then
  srun --overlap --nodes="$((count - 1))" --ntasks="$((count - 1))" --exclude="$head" ray start --block \
    --address="$RAY_ADDRESS" --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats &
fi
python cluster/wait_for_nodes.py "$count"

# Only the run itself has the keys, not Ray's processes.
(
  keys="${RLAIF_RAY_ENV:-$HOME/.config/rlaif_ray/env}"
  if [ -e "$keys" ]; then
    [ "$(stat -c %a "$keys")" = 600 ] || { echo "error: $keys may be read by others: chmod 600 $keys" >&2; exit 2; }
    set -a
    source "$keys"
    set +a
  fi
  exec rlaif-ray train "$@"
) &
driver=$!
wait "$driver" && code=0 || code=$?
if kill -0 "$driver" 2>/dev/null; then wait "$driver" && code=0 || code=$?; fi # the signal ended the first wait
exit "$code"
