#!/bin/bash
# A long job of deepfake as a SLURM array. On a login node, in a folder that all nodes see:
#
#   bash slurm.sh 64 crops crop MEDIA
#   bash slurm.sh 64 scores.csv predict MEDIA --checkpoint model.ckpt
#
# Submits 64 tasks, each of which does one part, and a last one that puts the parts together. The
# same line again goes on: a part that is finished ends at once. What a task may use is said here;
# for a GPU each, add --gres=gpu:1.
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=deepfake-%A_%a.log
set -euo pipefail

role=submit
if [[ ${1:-} =~ ^(part|merge)$ ]]; then
    role=$1
    shift
fi
if [[ ! ${1:-} =~ ^[1-9][0-9]*$ || ! ${3:-} =~ ^(crop|predict)$ ]]; then
    echo "expected: bash slurm.sh PARTS OUTPUT crop|predict MEDIA [options]" >&2
    exit 2
fi
parts=$1 output=${2%/}
shift 2
ending=
if [[ $1 == predict ]]; then ending=.csv; fi

case $role in
submit)
    # Also where a part fails: whatever is missing, merge names. A part without a single face
    # counts as failed, too.
    array=$(sbatch --parsable --array="1-$parts" "$0" part "$parts" "$output" "$@")
    sbatch --dependency="afterany:${array%%;*}" "$0" merge "$parts" "$output" "$@"
    ;;
part)
    # The number of parts is an argument: SLURM_ARRAY_TASK_COUNT is smaller where some are repeated.
    mkdir -p "$output.parts"
    exec deepfake "$@" --output "$output.parts/$SLURM_ARRAY_TASK_ID$ending" \
        --shard "$SLURM_ARRAY_TASK_ID/$parts" --workers "$SLURM_CPUS_PER_TASK"
    ;;
merge)
    all=()
    for ((part = 1; part <= parts; part++)); do all+=("$output.parts/$part$ending"); done
    exec deepfake merge "${all[@]}" --output "$output"
    ;;
esac
