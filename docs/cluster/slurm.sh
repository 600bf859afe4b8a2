#!/usr/bin/env bash
# A sweep on the nodes of one Slurm job: sbatch docs/cluster/slurm.sh --run runs/sweep --keep 0.5
#
# Submit it from a checkout on a file system that all nodes share, with an environment that has mha[bench,cluster] active
# or named by VENV. Arguments are those of `pytest bench`. Submitted again with the same --run, it goes on.
#SBATCH --job-name=mha-bench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=08:00:00
# With GPUs, add --gpus-per-node=4 to the command line, and ACCELERATOR=H100 before it: the name to ask for by --on.
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-$PWD}"
if [ -n "${VENV:-}" ]; then . "$VENV/bin/activate"; fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

# Whoever reaches a scheduler can run code on it and on its workers: only holders of this key do.
keys=$(mktemp -d "$PWD/.dask-keys-XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$keys"' EXIT
openssl req -x509 -newkey rsa:3072 -nodes -days 30 -subj /CN=mha-bench \
    -keyout "$keys/key.pem" -out "$keys/cert.pem" 2>/dev/null
export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True
export DASK_DISTRIBUTED__COMM__TLS__CA_FILE="$keys/cert.pem"
for role in SCHEDULER WORKER CLIENT; do
    export "DASK_DISTRIBUTED__COMM__TLS__${role}__CERT=$keys/cert.pem"
    export "DASK_DISTRIBUTED__COMM__TLS__${role}__KEY=$keys/key.pem"
done

export SCHEDULER="tls://$(hostname):${PORT:-8786}"
dask scheduler --protocol tls --port "${PORT:-8786}" --no-dashboard &

# On every node: one worker that owns the CPU, and one for each GPU. A worker ends with its scheduler, and is started again.
srun --ntasks-per-node=1 bash -c '
    keep() { while :; do "$@" || true; sleep 2; done; }
    worker() { dask worker "$SCHEDULER" --protocol tls --nthreads 1 --memory-limit 0 --no-dashboard --no-nanny "$@"; }
    keep worker --name "$(hostname)-cpu" --resources "CPU=1" &
    for gpu in $(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true); do
        named=${ACCELERATOR:+ $ACCELERATOR=1}
        CUDA_VISIBLE_DEVICES=$gpu keep worker --name "$(hostname)-gpu$gpu" --resources "GPU=1$named" &
    done
    wait
' &

workers=${WORKERS:-${SLURM_JOB_NUM_NODES:-1}}
python -c "
import os, sys
from distributed import Client
Client(os.environ['SCHEDULER'], timeout=120).wait_for_workers(int(sys.argv[1]), timeout=300)
" "$workers"
python -m pytest bench --cluster "$SCHEDULER" "$@"
