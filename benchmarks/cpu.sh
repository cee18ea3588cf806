#!/usr/bin/env bash
# What a machine without a GPU can measure in under 10 minutes: speed, bytes, what tracking costs, a large registry.
# JSON is kept in the folder OUTPUT, if given.
#
#   OUTPUT=benchmarks/results bash benchmarks/cpu.sh
#
# ResNet-20 is measured too where CIFAR-10 is there ($REWINDCTL_DATA, or the user's cache).
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}

measure() {
  local name=$1
  shift
  if [ -n "${OUTPUT:-}" ]; then
    mkdir -p "$OUTPUT"
    "$python" benchmarks/"$@" --output "$OUTPUT/$name.json"
  else
    "$python" benchmarks/"$@"
  fi
}

measure throughput_resnet8 throughput.py --model resnet8 --dataset digits --device cpu --iterations 50 --rounds 5
if "$python" -c 'from rewindctl.datasets import load_dataset; load_dataset("cifar10")' 2>/dev/null; then
  measure throughput_resnet20 throughput.py --model resnet20 --dataset cifar10 --device cpu --iterations 5 --rounds 5
fi
measure disk disk.py
measure tracking tracking.py --device cpu --iterations 6000 --rounds 5
measure large_registry large_registry.py --runs 2000 --rounds 3
