#!/usr/bin/env bash
# What to measure on a machine with a GPU, a part at a time:
#
#   tests      the tests that need a GPU, and those of our own kernels
#   step       updates by kernels of our own: right or not, how fast, cut otherwise; each kernel beside what is predicted
#   speed      where the time of an update goes; four networks against plain loops; one network compiled
#   several    several trials at once: three ways of updating them, then as commands
#   precision  baselines of full length in bf16 and in fp32, three seeds each
#   cells      cells of the paper at full length, the most telling first, as far as the time goes
#   all        one after another
#
#   OUT=results bash benchmarks/gpu.sh PART
#
# Made for a machine without network that kills a command after ten minutes and returns few files. A part ends by itself
# SECONDS_LEFT (540) after its start and leaves two files in OUT: PART.txt, what it printed, and PART.tar.gz, what it
# made (in pieces .00, .01, ... of MAX_SIZE, 15M, where it is larger). The registry is in the folder STATE: trainings that
# were stopped go on from there when the part is called again. `all` gives each part SECONDS_LEFT.
#
# Exit status: 0 all done, 1 something failed, 2 wrong usage, 3 nothing failed but the time was over: call it again.
#
# CIFAR-10 must be where rewindctl looks for it ($REWINDCTL_DATA). What else can be chosen, here as a minute on a CPU:
#
#   DEVICE=cpu DATASET=digits MODELS=resnet8 ITERATIONS=6 ROUNDS=1 TRIALS="1 2" SEEDS=0 JOBS=1 CELLS="my-study.yaml" \
#     BATCH=2 OUT=results STATE=state bash benchmarks/gpu.sh several
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
dataset=${DATASET:-cifar10}
compiled=${COMPILED-$([ "$device" = cpu ] || echo yes)} # it takes a minute on a GPU, minutes on a CPU; empty for not
state=${STATE:-${TMPDIR:-/tmp}/rewindctl}
read -ra models <<<"${MODELS:-resnet20 resnet56 resnet110 wrn16_8}"
read -ra trials <<<"${TRIALS:-1 2 4 8}"
# A line is a study and its options: ResNet-20 at 9.35x, table 5, then where LR rewinding starts to lose (figure 5).
lines=${CELLS:-"fig1 --cells schedule=one_shot,sparsity=0.893 --seeds 0-4
table5 --seeds 0-2
wrn_checkpoint --seeds 0-2
lr_clock --cells sparsity=0.893 --seeds 0-4
fig1 --seeds 0-2"}
ends_in=${SECONDS_LEFT:-540}
to_save=90 # seconds kept at the end of a part for reports and the bundle of its runs
least=5    # seconds: less is not worth a start
often=(--checkpoint-every 10) # seconds of each training that are lost when the time is over
into=(bash -c 'exec "${@:2}" >>"$1"' into) # FILE COMMAND ...: its answer goes to the file, the rest is shown

tests() {
  # Only the files with the mark: others import what a machine that only computes may not have.
  local files
  mapfile -t files < <(grep -rlw --include='test_*.py' 'mark\.cuda' tests)
  if [ "$device" != cpu ]; then # without a GPU that works they would all be skipped
    attempt gpu 60 "$python" -c 'import torch; torch.ones(1, device="cuda").cpu(); print(torch.cuda.get_device_name())'
  fi
  attempt tests "$ends_in" "$python" -m pytest -m cuda -vv -o timeout=180 -p no:cacheprovider "${files[@]}"
  [ "$device" = cpu ] && return # these need no GPU, and are compiled where there is one
  local at_once=()
  "$python" -c 'import xdist' 2>/dev/null && at_once=(-n 8) # what takes long is to compile
  attempt tests_fused "$ends_in" "$python" -m pytest -v -o timeout=180 -p no:cacheprovider "${at_once[@]}" \
    --ignore tests/fused/test_compile_offline.py tests/fused tests/training/test_fused_step.py tests/training/test_lanes.py \
    tests/training/test_agreement.py
}

step() {
  local count chosen=(--dataset "$dataset" --device "$device" ${BATCH:+--batch "$BATCH"}) updates=20
  if [ "$device" = cpu ]; then
    export TRITON_INTERPRET=1
    updates=1
  fi
  attempt step 200 "$python" benchmarks/step.py --models "${models[@]}" "${chosen[@]}" --rounds "${ROUNDS:-5}" \
    ${TRIALS:+--trials "${trials[@]}"} ${VARIANTS:+--variants "$VARIANTS"} --seconds "${STEP_SECONDS:-150}" \
    --output "$made/step.jsonl"
  for count in 1 8; do
    [ "$device" = cpu ] && ((count > 1)) && continue
    attempt "kernels_fused_$count" 60 "$python" benchmarks/kernel_times.py --model "${models[0]}" "${chosen[@]}" \
      --update-step fused --trials "$count" --updates "$updates" --output "$made/kernels_fused_$count.json"
  done
  ((${#models[@]} > 1)) || return 0
  attempt kernels_fused_last 60 "$python" benchmarks/kernel_times.py --model "${models[-1]}" "${chosen[@]}" \
    --update-step fused --updates "$updates" --output "$made/kernels_fused_last.json"
}

speed() {
  local model fill chosen=(--dataset "$dataset" --device "$device")
  # Training fills no new memory. What filling would cost is seen beside it; a process each, as the profiler wants.
  for fill in no-fill fill; do
    attempt "kernels_$fill" 60 "$python" benchmarks/kernel_times.py --model "${models[0]}" "${chosen[@]}" "--$fill" \
      --updates "${ITERATIONS:-50}" --output "$made/kernels_$fill.json"
  done
  for model in "${models[@]}"; do
    attempt "throughput_$model" 180 "$python" benchmarks/throughput.py --model "$model" "${chosen[@]}" \
      --iterations "${ITERATIONS:-50}" --rounds "${ROUNDS:-5}" --output "$made/throughput_$model.json"
  done
  [ "$compiled" ] || return
  attempt kernels_compiled 180 "$python" benchmarks/kernel_times.py --model "${models[0]}" "${chosen[@]}" --compiled \
    --updates "${ITERATIONS:-50}" --output "$made/kernels_compiled.json"
  attempt throughput_compiled 180 "$python" benchmarks/throughput.py --model "${models[0]}" "${chosen[@]}" --compiled \
    --iterations "${ITERATIONS:-50}" --rounds "${ROUNDS:-5}" --output "$made/throughput_compiled.json"
}

several() {
  local jobs step files=() steps=(pytorch)
  [ "$device" = cpu ] || steps+=(fused) # trials at once are lanes of one step then
  attempt several_ways 240 "$python" benchmarks/several.py --model "${models[0]}" --dataset "$dataset" \
    --device "$device" --trials "${trials[@]}" --iterations "${ITERATIONS:-100}" --rounds "${ROUNDS:-5}" \
    --output "$made/several_ways.json"
  for step in "${steps[@]}"; do
    for jobs in "${trials[@]}"; do
      files+=("$made/several_${step}_$jobs.jsonl")
      attempt "several_${step}_$jobs" 150 "${into[@]}" "${files[-1]}" "$python" -m rewindctl --experiment several \
        train-dense --model "${models[0]}" --dataset "$dataset" --device "$device" --seeds "0-$((jobs - 1))" \
        --jobs "$jobs" --update-step "$step" --iterations "${ITERATIONS:-12000}" --force --json
    done
  done
  deadline=$end
  attempt together 60 "$python" benchmarks/together.py --experiment several --output "$made/together.json" "${files[@]}"
}

precision() {
  local arithmetic experiment
  deadline=$((end - to_save))
  for arithmetic in bf16 fp32; do
    # `cells` takes any precision and finds the bf16 ones; the others are kept apart from it.
    experiment=$([ "$arithmetic" = bf16 ] && echo rewindctl || echo fp32)
    attempt "train_$arithmetic" "$ends_in" "${into[@]}" "$made/$arithmetic.jsonl" "$python" -m rewindctl train-dense \
      --experiment "$experiment" --model "${models[0]}" --dataset "$dataset" --device "$device" --json \
      --seeds "${SEEDS:-0-2}" --jobs "${JOBS:-3}" --precision "$arithmetic" "${often[@]}" \
      ${ITERATIONS:+--iterations "$ITERATIONS"}
  done
  deadline=$end
  save rewindctl
  save fp32
}

cells() {
  local line words number=0
  deadline=$((end - to_save))
  while read -ra words; do
    ((${#words[@]})) || continue
    line="$((++number))_$(basename "${words[0]}" .yaml)"
    attempt "$line" "$ends_in" "$python" -m rewindctl --experiment rewindctl reproduce "${words[@]}" \
      --device "$device" --jobs "${JOBS:-8}" "${often[@]}" --output "$made/$line"
  done <<<"$lines"
  deadline=$end
  if any_finished rewindctl; then
    attempt compare 60 "$python" -m rewindctl --experiment rewindctl compare --report --log --output "$made/plots" \
      --format markdown
  fi
  save rewindctl
}

# The finished runs of an experiment: metrics, specs and masks, not the networks.
save() {
  any_finished "$1" || return
  attempt "save_$1" 60 "$python" -m rewindctl --experiment "$1" registry export "$made/$1.bundle" --no-checkpoints \
    --overwrite
}

# There may be none where the time was over before the first; elsewhere the step that needs one says what is wrong.
any_finished() {
  ((!short)) && return
  "$python" -m rewindctl --experiment "$1" list --json 2>/dev/null </dev/null | grep -c '"FINISHED"' >/dev/null
}

# NAME SECONDS COMMAND ...: at most so long, and not beyond the deadline; a failure is said and remembered.
attempt() {
  local name=$1 most=$2 began=$SECONDS status
  shift 2
  if ((most > deadline - SECONDS)); then most=$((deadline - SECONDS)); fi
  if ((most < least)); then
    echo "-- $name: no time left"
    short=1
    return
  fi
  echo "-- $name"
  timeout --kill-after=25 "$most" "$@" </dev/null 2>&1 | tee -a "$made/$name.txt"
  status=${PIPESTATUS[0]}
  if ((status == 124 || (status == 137 && SECONDS - began >= most))); then
    echo "-- $name: stopped after $most s"
    short=1
  elif ((status)); then
    echo "-- $name: FAILED with exit status $status"
    failed=1
  fi
  pack
}

# What there is, in OUT; after every step, since the next may be the one that is killed.
pack() {
  local packed=$state/$part.tar.gz
  tar -C "$made" -czf "$packed" . || failed=1
  rm -f "$out/$part".tar.gz*
  if [ "$(stat -c %s "$packed")" -le "$(numfmt --from=iec "${MAX_SIZE:-15M}")" ]; then
    cp "$packed" "$out/$part.tar.gz"
  else
    split -d -b "${MAX_SIZE:-15M}" "$packed" "$out/$part.tar.gz."
  fi || failed=1
}

run() (
  part=$1 failed=0 short=0 made=$state/made/$1
  end=$((SECONDS + ends_in)) && deadline=$end
  rm -rf "$made" && mkdir -p "$made" || exit 1
  export MLFLOW_TRACKING_URI="sqlite:///$state/mlflow.db" XDG_STATE_HOME=$state
  trap pack EXIT
  trap 'exit 1' INT TERM
  "$part"
  if ((failed)); then echo "-- $part: FAILED" && exit 1; fi
  if ((short)); then echo "-- $part: stopped by the time" && exit 3; fi
  echo "-- $part: done"
)

case ${1:-all} in
  tests | step | speed | several | precision | cells) parts=("$1") ;;
  all) parts=(tests step speed several precision cells) ;;
  *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2 && exit 2 ;;
esac
mkdir -p "${OUT:=results}" "$state" || exit 1
out=$(cd "$OUT" && pwd) state=$(cd "$state" && pwd) worst=0
for part in "${parts[@]}"; do
  run "$part" 2>&1 | tee "$out/$part.txt"
  status=${PIPESTATUS[0]}
  if ((worst != 1 && status)); then worst=$status; fi
done
exit "$worst"
