#!/usr/bin/env bash
# The whole chain, from images to the classes and images that pruning forgets.
#
#   ./run.sh               trains 30 small networks on 900 handwritten digits
#                          and compares them on 897 others; 3 to 4 minutes on
#                          two cores, the installation apart
#   REPLICATES=3 EPOCHS=5 ./run.sh     a smaller population
#
# Prints every command before it runs it; each also works when it is pasted
# alone (with .venv/bin/python for python). What is finished is skipped, so a
# second ./run.sh ends in seconds and an interrupted one goes on.
#
# Variables, with their defaults:
#   REPLICATES=10          networks trained at each level of sparsity
#   SPARSITIES=0,0.5,0.9   levels: fractions of zero weights; 0 is dense
#   EPOCHS=12              passes over the 900 images, for each network
#   RUN=runs/digits        folder of all results; git ignores runs/
#   PYTHON=                Python for a new .venv; any that TensorFlow supports
#   VENV=                  environment to use as it is, in place of .venv
#
# Members are added to a folder, never taken away, and their settings cannot
# change: for fewer replicates or other epochs, choose another RUN.
#
# The same for ImageNet, 30 networks a level. Training is what takes long: spread
# it over machines by replicates (--first_replicate, --num_replicates=1) and by
# sparsity. Every path may be in a bucket (gs://...).
#
#   RUN=gs://bucket/imagenet
#   python -m save_checkpoint.build_image_data --source=imagenet \
#     --train_directory=ILSVRC2012_img_train.tar \
#     --validation_directory=ILSVRC2012_img_val.tar \
#     --validation_labels=validation_wnids.txt --output_dir=$RUN/data
#   python -m save_checkpoint.imagenet_train_eval --tpu=local \
#     --data_directory=$RUN/data --output_dir=$RUN/checkpoints/imagenet \
#     --pruning_method=threshold --end_sparsity=0,0.3,0.5,0.7,0.9 \
#     --num_replicates=30
#   python -m pie_dataset_gen.imagenet_predictions \
#     --ckpt_dir=$RUN/checkpoints/imagenet --data_directory=$RUN/data \
#     --output_path=$RUN/results
#   and from there as below, with --dataset_name=imagenet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

REPLICATES=${REPLICATES:-10}
SPARSITIES=${SPARSITIES:-0,0.5,0.9}
EPOCHS=${EPOCHS:-12}
RUN=${RUN:-runs/digits}

for name in REPLICATES EPOCHS; do
  if [[ ! ${!name} =~ ^[1-9][0-9]*$ ]]; then
    echo "error: $name is '${!name}', wanted a whole number from 1 on" >&2
    exit 1
  fi
done

if [[ -z ${VENV:-} ]]; then
  VENV=.venv
  ./make_environment.sh "$VENV" requirements.txt
fi
# TensorFlow's remarks on the processor and on GPUs that are not there.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
# Networks as small as these run faster if no operation is split over cores.
export TF_NUM_INTRAOP_THREADS=${TF_NUM_INTRAOP_THREADS:-1}

# 900 images in batches of 64 are 14 steps an epoch. Pruning begins after a
# sixth of the training and ends at seven eighths: a network that recovers for
# long forgets little.
steps=$((14 * EPOCHS))
hundredths() { printf '%d.%02d' $(($1 / 100)) $(($1 % 100)); }

mkdir -p "$RUN/finished"
number=0
changed=no
# stage <a file or folder it makes> <module> <flags>: prints the command, runs
# it, and remembers that it has. It is skipped as long as neither it nor a stage
# before it has changed and what it made is still there.
stage() {
  local made=$1
  shift
  number=$((number + 1))
  local stamp
  stamp=$RUN/finished/$(printf '%02d' "$number")-$1
  printf '\n\e[1m[%d] python -m %s' "$number" "$1"
  printf ' \\\n      %s' "${@:2}"
  printf '\e[0m\n'
  if [[ $changed == no && -e $made && $(cat "$stamp" 2>/dev/null) == "$*" ]]; then
    echo "    finished before: $made"
    return
  fi
  changed=yes
  rm -f "$stamp"
  "$VENV/bin/python" -m "$@"
  echo "$*" >"$stamp"
}

# The images, as TFRecords with a description.
stage "$RUN/data/image_records.json" save_checkpoint.build_image_data \
  --source=digits --output_dir="$RUN/data"

# The population: dense and pruned networks.
stage "$RUN/checkpoints/digits" save_checkpoint.imagenet_train_eval \
  --mode=train_and_eval --data_directory="$RUN/data" \
  --output_dir="$RUN/checkpoints/digits" --pruning_method=threshold \
  --end_sparsity="$SPARSITIES" --num_replicates="$REPLICATES" \
  --resnet_depth=18 --width=0.125 --train_batch_size=64 \
  --train_steps="$steps" --base_learning_rate=0.4 \
  --warmup_epochs="$(hundredths $((EPOCHS * 8)))" \
  --decay_epochs="$(hundredths $((EPOCHS * 67))),$(hundredths $((EPOCHS * 92)))" \
  --sparsity_begin_step=$((steps / 6)) --sparsity_end_step=$((steps * 7 / 8)) \
  --pruning_frequency=$((steps / 14))

# Which images are forgotten.
stage "$RUN/results/digits/predictions_dataframe" \
  pie_dataset_gen.imagenet_predictions \
  --ckpt_dir="$RUN/checkpoints/digits" --data_directory="$RUN/data" \
  --output_path="$RUN/results"
stage "$RUN/results/digits/modal_labels" pie_dataset_gen.aggregate_predictions \
  --data_directory="$RUN/results/digits/predictions_dataframe/eval" \
  --output_path="$RUN/results" --dataset_name=digits
stage "$RUN/pie" pie_dataset_gen.generate_pie_dataset --is_pie=both \
  --data_directory="$RUN/data" --predictions_file="$RUN/results" \
  --output_file="$RUN/pie" --dataset_name=digits

# Which classes pay.
stage "$RUN/results/digits/class_metrics" \
  per_class_accuracy.aggregate_ckpt_metrics \
  --predictions_directory="$RUN/results/digits/predictions_dataframe/eval" \
  --data_directory="$RUN/data" --output_path="$RUN/results"
stage "$RUN/results/digits/eval/recall_t_statistic.csv" \
  per_class_accuracy.gen_tstatistic \
  --data_directory="$RUN/results/digits/class_metrics/eval" \
  --output_file="$RUN/results" --dataset_name=digits
stage "$RUN/results/digits/eval/class_impact_significant_classes.png" \
  per_class_accuracy.plot_class_impact \
  --output_file="$RUN/results" --dataset_name=digits

# What pruning costs off the clean distribution.
stage "$RUN/corrupted" robustness_tests.build_corruptions \
  --data_directory="$RUN/data" --output_path="$RUN/corrupted" \
  --corruptions=gaussian_noise,brightness,pixelate \
  --severities=1,3,5
stage "$RUN/results/robustness" robustness_tests.imagenet_corruptions \
  --ckpt_dir="$RUN/checkpoints/digits" --data_directory="$RUN/corrupted" \
  --dataset_name=digits_c --dest_dir="$RUN/results/robustness"
stage "$RUN/results/robustness/robustness_summary.csv" \
  robustness_tests.summarize --data_directory="$RUN/results/robustness" \
  --clean_directory="$RUN/results/digits/class_metrics/eval" \
  --dest_dir="$RUN/results/robustness"

# Labels to look at first.
stage "$RUN/results/digits/eval_suspects.csv" pie_dataset_gen.rank_suspects \
  --predictions_file="$RUN/results" --output_path="$RUN/results" \
  --data_directory="$RUN/data" --dataset_name=digits

# The findings, side by side; printed each time.
changed_before=$changed
changed=yes
stage "$RUN/results/headline_table.csv" pie_dataset_gen.headline_table \
  --dataset_name=digits --predictions_file="$RUN/results" \
  --class_metrics_directory="$RUN/results/digits/class_metrics/eval" \
  --t_statistic_file="$RUN/results" \
  --robustness_directory="$RUN/results/robustness" \
  --output_path="$RUN/results"

# The page to look at.
changed=$changed_before
stage "$RUN/results/digits/gallery/eval/index.html" pie_dataset_gen.gallery \
  --data_directory="$RUN/data" --predictions_file="$RUN/results" \
  --predictions_directory="$RUN/results/digits/predictions_dataframe/eval" \
  --ckpt_dir="$RUN/checkpoints/digits" \
  --headline_directory="$RUN/results" --t_statistic_file="$RUN/results" \
  --robustness_directory="$RUN/results/robustness" \
  --output_path="$RUN/results"
printf '\nOpen %s in a browser.\n' "$RUN/results/digits/gallery/eval/index.html"
