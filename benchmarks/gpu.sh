#!/usr/bin/env bash
# What to measure on a machine with a GPU, in this order: the CUDA tests, speed against plain loops, then the report's
# ResNet-20 cells at full length for as long as SECONDS_LEFT allows. Results go to the folder OUT.
#
#   OUT=results SECONDS_LEFT=1500 bash benchmarks/gpu.sh [tests|speed|cells]
#
# Needs CIFAR-10 where rewindctl looks for it ($REWINDCTL_DATA).
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
out=${OUT:-results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
what=${1:-all}
deadline=$((SECONDS + ${SECONDS_LEFT:-1500}))

tests() { python3 -m pytest -m cuda tests 2>&1 | tee "$out/cuda_tests.txt"; }

speed() {
  for model in resnet20 resnet56 resnet110 wrn16_8; do
    python3 benchmarks/throughput.py --model "$model" --device cuda --iterations 100 --rounds 5 \
      --output "$out/throughput_$model.json" | tee "$out/throughput_$model.txt"
  done
}

cells() {
  export MLFLOW_TRACKING_URI="sqlite:///${STORE:-/tmp/rewindctl/mlflow.db}"
  for seed in 0 1 2 3 4; do
    for method in "lr_rewind" "weight_rewind --k 8000" "finetune"; do
      left=$((deadline - SECONDS))
      [ "$left" -gt 60 ] || break 2
      # Stopped at the deadline, a run goes on from its resume point at the next call.
      timeout --signal=INT "$left" bash -c "
        dense=\$(python3 -m rewindctl train-dense --model resnet20 --dataset cifar10 --seed $seed --device cuda) &&
        python3 -m rewindctl retrain --parent \$dense --sparsity 0.893 --method $method --device cuda" || break 2
    done
  done
  python3 -m rewindctl compare --figure curves --output "$out" --format markdown || true
}

case $what in
  all) tests && speed && cells ;;
  *) "$what" ;;
esac
