#!/bin/sh
# Runs a trainer on every host of a TPU pod slice, through gcloud.
#
#   TPU=my-v5e-64 ZONE=us-west4-a sh experiments/launch/tpu_pod.sh \
#     --config configs/turbo/distill.py --workdir /mnt/runs/turbo --set mesh.fsdp=-1
#
# MODULE names another trainer than train.distill; FOLDER is the checkout on the hosts, with its
# environment in .venv. --cluster join lets JAX ask the metadata server for the other hosts.
set -eu
: "${TPU:?name the slice, as gcloud lists it}" "${ZONE:?name its zone}"
MODULE=${MODULE:-train.distill}
FOLDER=${FOLDER:-acestep-jax}

exec gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker all \
  --command "cd $FOLDER && .venv/bin/python -m $MODULE --cluster join $*"
