#!/usr/bin/env bash
# The whole chain, from images to the classes and images that pruning forgets.
#
#   ./run.sh               trains 30 small networks on 900 handwritten digits,
#                          quantises ten, and compares them all on 897 others;
#                          3 minutes on two cores, the installation apart
#   ./run.sh cifar10       the same with 50 networks on CIFAR-10: 5 hours
#   ./run.sh FOLDER        the same on images of your own: FOLDER/<class>/<image>,
#                          of which a third is for evaluation, or the like in
#                          FOLDER/train and FOLDER/test (or val, validation)
#   ./run.sh --dry_run     prints the commands, one a line, and does nothing;
#                          with a FOLDER, too: its flags can then be changed
#   REPLICATES=3 EPOCHS=5 STUDY=runs/small ./run.sh     a smaller population
#
# Prints every command before it runs it; each also works when it is pasted
# alone (with .venv/bin/python for python). What is finished is skipped, so a
# second ./run.sh ends in seconds and an interrupted one goes on.
#
# Variables, with their defaults:
#   STUDY=runs/digits      folder of all that is made; git ignores runs/. Else
#                          runs/cifar10 or runs/<name of the folder>
#   REPLICATES=10          networks trained at each level of sparsity
#   SPARSITIES=0,0.5,0.9   levels: fractions of zero weights; 0 is dense.
#                          CIFAR-10: 0,0.3,0.5,0.7,0.9
#   EPOCHS=12              passes over the training images, for each network;
#                          of a folder by its rules below
#   STEPS=                 optimiser steps in their place. CIFAR-10: 5500
#   QUANTISATION=int8      what the dense networks are quantised to, a list, of
#                          float16, dynamic_int8, int8; empty for nothing
#   CIFAR10=               cifar-10-binary.tar.gz, the folder that it unpacks to,
#                          or one with train/ and test/ that hold a folder or tar
#                          of images for each class. Empty: it is fetched
#   PYTHON=                Python for a new .venv; any that TensorFlow supports
#   VENV=                  environment to use as it is, in place of .venv
#
# What follows from a folder's number of training images, n, and the median of
# their shorter sides:
#
#   side           size of the input   prepared by                    stem
#   up to 48       32                  moving by up to 4 pixels       3x3, stride 2
#   up to 96       64                  crops of 0.4 to all of it      ImageNet's
#   more           128                 the same                       the same
#
#   n              batch   filters of ResNet-18   epochs
#   up to 500      32      an eighth              32, at least 400 steps
#   up to 2,000    64      an eighth              32
#   up to 10,000   64      a quarter              20
#   more           128     a quarter              10
#
# Everywhere pruning begins after a sixth of the training and ends at seven
# eighths, and the learning rate rises for a twelfth. It then falls to a tenth
# twice for the digits, and evenly to 0 for all others.
#
# Members are added to a study, never taken away, and their settings cannot
# change: for fewer replicates or other epochs, choose another STUDY.
#
# Images differ in the first two commands only, those that make the data and the
# population. ImageNet, 30 networks a level; training is what takes long:
# spread it over machines by replicates (--first_replicate, --num_replicates=1)
# and by sparsity. A study may lie in a bucket.
#
#   STUDY=gs://bucket/imagenet
#   python -m save_checkpoint.build_image_data --study=$STUDY --source=imagenet \
#     --train_directory=ILSVRC2012_img_train.tar \
#     --validation_directory=ILSVRC2012_img_val.tar \
#     --validation_labels=validation_wnids.txt
#   python -m save_checkpoint.imagenet_train_eval --study=$STUDY --tpu=local \
#     --pruning_method=threshold --end_sparsity=0,0.3,0.5,0.7,0.9 \
#     --num_replicates=30
#   STUDY=$STUDY ./run.sh --dry_run | tail -n +3 | bash -e
set -euo pipefail
from=$PWD # what a relative path is relative to
cd "$(dirname "${BASH_SOURCE[0]}")"
if ((BASH_VERSINFO[0] < 4)); then
  echo "error: this is bash $BASH_VERSION, wanted 4 or later" >&2
  exit 1
fi

# A path as it was given, also from another folder.
absolute() {
  if [[ $1 == /* || $1 == *://* || $from == "$PWD" ]]; then
    printf %s "$1"
  else
    printf %s "$from/$1"
  fi
}

images=digits # or cifar10, or folder
folder=
dry_run=
for argument; do
  if [[ $argument == --dry_run ]]; then
    dry_run=$argument
  elif [[ $images != digits || $argument == -* || ! $argument ]]; then
    echo "error: the arguments are '$*', wanted at most cifar10 or a folder of" \
      "images, and --dry_run" >&2
    exit 1
  elif [[ $argument == cifar10 ]]; then
    images=cifar10
  else
    images=folder
    folder=$(absolute "${argument%/}")
    if [[ $folder != *://* && ! -d $folder ]]; then
      echo "error: there is no folder $folder" >&2
      exit 1
    fi
  fi
done
# Of the data set.
name=$images
if [[ $folder ]]; then
  name=$folder
  [[ ! -d $folder ]] || name=$(cd "$folder" && pwd) # for it may be .
  name=${name##*/}
  name=${name//[^A-Za-z0-9_.-]/_}
fi

STUDY=${STUDY:-runs/$name}
REPLICATES=${REPLICATES:-10}
EPOCHS=${EPOCHS:-}
STEPS=${STEPS:-}
QUANTISATION=${QUANTISATION-int8}
CIFAR10=${CIFAR10:-}

for variable in REPLICATES EPOCHS STEPS; do
  if [[ ${!variable} && ! ${!variable} =~ ^[1-9][0-9]*$ ]]; then
    echo "error: $variable is '${!variable}', wanted a whole number from 1 on" >&2
    exit 1
  fi
done

# TensorFlow's remarks on the processor and on GPUs that are not there.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
# Networks as small as these run faster if no operation is split over cores.
export TF_NUM_INTRAOP_THREADS=${TF_NUM_INTRAOP_THREADS:-1}

# What every script leaves beside its results says which commands are finished.
# Of each a line: when its record was written, the record, the command. The
# records of single members, deeper among the checkpoints, say nothing of the
# command that trains them all.
list_records='
import json, os, sys

study = sys.argv[1]
for folder, folders, files in sorted(os.walk(study)):
  depth = os.path.relpath(folder, study).split(os.sep)
  if depth[0] == "checkpoints" and len(depth) > 2:
    continue
  for path in [os.path.join(folder, n) for n in files if n.endswith(".run.json")]:
    try:
      with open(path, encoding="utf-8") as file:
        record = json.load(file)
      command = [record["script"], *record["command"][1:]]
      if record["finished"]:
        print(os.stat(path).st_mtime_ns, path, " ".join(command), sep="\t")
    except (OSError, ValueError, KeyError, TypeError):
      pass  # damaged, or of no command: the script says so
'
declare -A time_of record_of
records=
read_records() {
  local time record command
  records=$("$VENV/bin/python" -c "$list_records" "$STUDY")
  time_of=() record_of=()
  while IFS=$'\t' read -r time record command; do
    if [[ $command ]]; then
      time_of[$command]=$time
      record_of[$command]=$record
    fi
  done <<<"$records"
}

# As it would be typed; nothing is quoted that needs no quotes.
quoted() {
  if [[ $1 =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
    printf %s "$1"
  else
    printf %q "$1"
  fi
}

number=0
changed=no # whether a stage has made something in this run
newest=0   # when the newest of the stages so far was finished
# stage <a file or folder it makes, below the study> <module> <flags>: prints the
# command and runs it. It is skipped when what it makes is there, its record says
# that this very command is finished, and it was finished after the stages
# before it, of which none has made anything new.
stage() {
  local made=$STUDY/$1 command="${*:2}" argument before
  shift
  if [[ $dry_run ]]; then
    printf 'python -m'
    for argument; do
      printf ' '
      quoted "$argument"
    done
    echo
    return
  fi
  number=$((number + 1))
  printf '\n\e[1m[%d] python -m %s' "$number" "$1"
  for argument in "${@:2}"; do
    printf ' \\\n      '
    quoted "$argument"
  done
  printf '\e[0m\n'
  if [[ $changed == no && -e $made ]] &&
    ((${time_of[$command]:-0} > 0 && ${time_of[$command]:-0} >= newest)); then
    echo "    finished before: $made"
  else
    before=$records
    "$VENV/bin/python" -m "$@"
    read_records
    # A script that finds nothing to do leaves its record as it is, and then
    # what follows needs nothing new from it.
    if [[ $records != "$before" ]]; then
      changed=yes
    elif [[ ${record_of[$command]:-} ]]; then
      # So that it is not asked again, it counts as finished now.
      touch "${record_of[$command]}"
      read_records
    fi
  fi
  if ((${time_of[$command]:-0} > newest)); then
    newest=${time_of[$command]}
  fi
}
# The same for what is printed each time: when it was printed does not make what
# follows out of date.
stage_each_time() {
  local changed_before=$changed newest_before=$newest command="${*:2}"
  if [[ $changed == no ]] && ((${time_of[$command]:-0} >= newest)) &&
    [[ -e $STUDY/$1 && ${time_of[$command]:-} ]]; then
    changed=yes
    stage "$@"
    changed=$changed_before
  else
    stage "$@"
  fi
  newest=$newest_before
}

if [[ ! $dry_run || $folder ]]; then
  if [[ -z ${VENV:-} ]]; then
    VENV=.venv
    if [[ $dry_run ]]; then
      ./make_environment.sh "$VENV" requirements.txt >&2
    else
      ./make_environment.sh "$VENV" requirements.txt
    fi
  fi
  [[ $dry_run ]] || read_records
fi

# What the images are, how they are prepared, and what suits their number. The
# learning rates are for batches of 256.
look='
import sys
from save_checkpoint import image_sources
try:
  print(*image_sources.survey(sys.argv[1]), sep="\n")
except (OSError, ValueError) as error:
  sys.exit(f"error: {error}")
'
stem=() prediction=()
decay=(--decay=linear)
case $images in
digits)
  count=900 batch=64 width=0.125 prediction=(--batch_size=512)
  epochs=12
  SPARSITIES=${SPARSITIES:-0,0.5,0.9}
  data=(--source=digits)
  ;;
cifar10)
  count=50000 batch=128 width=0.25 stem=(--stem=3x3_stride_2)
  decay+=(--weight_decay=0.0005)
  [[ $EPOCHS ]] || STEPS=${STEPS:-5500}
  SPARSITIES=${SPARSITIES:-0,0.3,0.5,0.7,0.9}
  if [[ $CIFAR10 ]]; then
    CIFAR10=$(absolute "$CIFAR10")
  fi
  if [[ $CIFAR10 && -d $CIFAR10/train ]]; then
    data=(--source=folders --dataset_name=cifar10
      --train_directory="$CIFAR10/train" --validation_directory="$CIFAR10/test"
      --image_size=32 --resize_size=32 --crop_padding=4)
  else
    data=(--source=cifar10 ${CIFAR10:+--archive="$CIFAR10"})
  fi
  ;;
folder)
  found=$("$VENV/bin/python" -c "$look" "$folder")
  { read -r train; read -r validation; read -r count; read -r side; } <<<"$found"
  data=(--source=folders --dataset_name="$name" --train_directory="$train")
  if [[ $validation ]]; then
    data+=(--validation_directory="$validation")
  else
    data+=(--validation_fraction=0.33)
    count=$((count * 67 / 100))
  fi
  if ((side <= 48)); then
    data+=(--image_size=32 --resize_size=32 --crop_padding=4)
    stem=(--stem=3x3_stride_2)
  elif ((side <= 96)); then
    data+=(--image_size=64 --resize_size=73 --crop_area_min=0.4)
  else
    data+=(--image_size=128 --resize_size=146 --crop_area_min=0.4)
  fi
  batch=64 width=0.125 epochs=32
  if ((count <= 500)); then
    batch=32
  elif ((count > 10000)); then
    batch=128 width=0.25 epochs=10
  elif ((count > 2000)); then
    width=0.25 epochs=20
  fi
  SPARSITIES=${SPARSITIES:-0,0.5,0.9}
  ;;
esac

# A network that recovers for long after it was pruned forgets little.
epoch=$((count < batch ? 1 : count / batch)) # its steps
steps=${STEPS:-$((epoch * ${EPOCHS:-$epochs}))}
if [[ $folder && ! $STEPS && ! $EPOCHS ]] && ((steps < 400)); then
  steps=400
fi
if ((steps < 8)); then
  echo "error: training has $steps steps, wanted 8 or more" >&2
  exit 1
fi
# In epochs, so many hundredths of the training.
share() { printf '%d.%02d' $((steps * $1 / epoch / 100)) $((steps * $1 / epoch % 100)); }
if [[ $images == digits ]]; then
  decay=(--decay_epochs="$(share 67),$(share 92)")
fi

# The images, as TFRecords with a description.
stage data/image_records.json \
  save_checkpoint.build_image_data --study="$STUDY" "${data[@]}"

# The population: dense and pruned networks.
stage checkpoints/"$name" \
  save_checkpoint.imagenet_train_eval --study="$STUDY" \
  --pruning_method=threshold --end_sparsity="$SPARSITIES" \
  --num_replicates="$REPLICATES" --resnet_depth=18 --width="$width" \
  "${stem[@]}" --train_batch_size="$batch" --train_steps="$steps" \
  --members_at_once=0 \
  --base_learning_rate=0.4 --warmup_epochs="$(share 8)" "${decay[@]}" \
  --sparsity_begin_step=$((steps / 6)) --sparsity_end_step=$((steps * 7 / 8)) \
  --pruning_frequency=$((steps < 14 ? 1 : steps / 14))

# The dense networks with eight bits in place of 32.
if [[ $QUANTISATION ]]; then
  stage checkpoints/"$name"/"${QUANTISATION%%,*}" \
    save_checkpoint.quantise_checkpoints --study="$STUDY" \
    --pruning_method=baseline --quantisation="$QUANTISATION"
fi

# Which images are forgotten.
stage results/"$name"/predictions_dataframe \
  pie_dataset_gen.imagenet_predictions --study="$STUDY" "${prediction[@]}"
stage results/"$name"/modal_labels \
  pie_dataset_gen.aggregate_predictions --study="$STUDY"
stage pie/"$name" \
  pie_dataset_gen.generate_pie_dataset --study="$STUDY" --is_pie=both

# What pruning costs beside accuracy.
stage results/"$name"/eval_costs.csv \
  pie_dataset_gen.measure_costs --study="$STUDY"

# Which classes pay.
stage results/"$name"/class_metrics \
  per_class_accuracy.aggregate_ckpt_metrics --study="$STUDY"
stage results/"$name"/eval/recall_t_statistic.csv \
  per_class_accuracy.gen_tstatistic --study="$STUDY"
stage results/"$name"/eval/class_impact_significant_classes.png \
  per_class_accuracy.plot_class_impact --study="$STUDY"

# What pruning costs off the clean distribution.
stage corrupted \
  robustness_tests.build_corruptions --study="$STUDY" \
  --corruptions=gaussian_noise,brightness,pixelate --severities=1,3,5
stage results/robustness/"$name"_c \
  robustness_tests.imagenet_corruptions --study="$STUDY" "${prediction[@]}" \
  --predictions_directory="$STUDY"/results
stage results/robustness/robustness_summary.csv \
  robustness_tests.summarize --study="$STUDY"
stage results/"$name"/eval_corrupted_costs.csv \
  pie_dataset_gen.measure_corrupted_costs --study="$STUDY"

# What pruning buys.
stage results/"$name"/gains.csv \
  pie_dataset_gen.measure_gains --study="$STUDY"

# Labels to look at first.
stage results/"$name"/eval_suspects.csv \
  pie_dataset_gen.rank_suspects --study="$STUDY"

# The findings, side by side.
stage_each_time results/headline_table.csv \
  pie_dataset_gen.headline_table --study="$STUDY"

# The page to look at.
page=results/$name/gallery/eval/index.html
stage "$page" pie_dataset_gen.gallery --study="$STUDY"
[[ $dry_run ]] || printf '\nOpen %s in a browser.\n' "$STUDY/$page"
