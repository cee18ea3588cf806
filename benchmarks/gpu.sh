#!/usr/bin/env bash
# What to measure on a machine with a GPU, in this order: the CUDA tests, speed against plain loops, several trials at
# once, bf16 against fp32 over three seeds, then the report's ResNet-20 cells at full length for as long as SECONDS_LEFT
# allows. Results go to the folder OUT.
#
#   OUT=results SECONDS_LEFT=1500 bash benchmarks/gpu.sh [tests|speed|several|precision|cells]
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

# Trials side by side, two ways and in turn; then as commands: the sum of iterations_per_second in several_N.jsonl is
# what N at once make together.
several() {
  python3 benchmarks/several.py --device cuda --trials 1 2 4 8 --iterations 200 --rounds 5 \
    --output "$out/several_ways.json" | tee "$out/several_ways.txt"
  export MLFLOW_TRACKING_URI="sqlite:///${STORE:-/tmp/rewindctl/mlflow.db}"
  for jobs in 1 2 4 8; do
    timeout --signal=INT 120 python3 -m rewindctl --experiment several train-dense --model resnet20 --dataset cifar10 \
      --seeds "0-$((jobs - 1))" --iterations 12000 --jobs "$jobs" --device cuda --force --json \
      2>>"$out/several.log" >"$out/several_$jobs.jsonl" || true
  done
}

# Full-length baselines in both precisions, seed by seed: their accuracies are in precision.jsonl.
precision() {
  export MLFLOW_TRACKING_URI="sqlite:///${STORE:-/tmp/rewindctl/mlflow.db}"
  for seed in 0 1 2; do
    for arithmetic in bf16 fp32; do
      left=$((deadline - SECONDS))
      [ "$left" -gt 60 ] || return 0
      timeout --signal=INT "$left" python3 -m rewindctl train-dense --model resnet20 --dataset cifar10 --seed "$seed" \
        --precision "$arithmetic" --device cuda --json 2>>"$out/precision.log" >>"$out/precision.jsonl" || true
    done
  done
}

cells() {
  export MLFLOW_TRACKING_URI="sqlite:///${STORE:-/tmp/rewindctl/mlflow.db}"
  # The most telling first: ResNet-20 at 9.35x, table 5, then where LR rewinding starts to lose (figure 5's question).
  # Stopped at the deadline, a stage goes on from its resume point at the next call; what is done is never run again.
  stage fig1 --cells "schedule=one_shot,sparsity=0.893" --seeds 0-4
  stage table5 --seeds 0-2
  stage wrn_checkpoint --seeds 0-2
  stage lr_clock --cells "sparsity=0.893" --seeds 0-4
  stage fig1 --seeds 0-2
  python3 -m rewindctl compare --report --log --output "$out/plots" --format markdown || true
  python3 -m rewindctl registry export "$out/runs.bundle" --no-checkpoints --max-size 15M --overwrite || true
}

stage() {
  left=$((deadline - SECONDS))
  [ "$left" -gt 60 ] || return 0
  timeout --signal=INT "$left" python3 -m rewindctl reproduce "$@" --device cuda --jobs "${JOBS:-1}" \
    --output "$out/$1" 2>&1 | tee -a "$out/cells.log" || true
}

case $what in
  all) tests && speed && several && precision && cells ;;
  *) "$what" ;;
esac
