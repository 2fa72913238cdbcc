"""Do the rankings find wrong labels? An experiment with labels made wrong.

  python -m tests.benchmarks.label_errors [--share=0.1] [--replicates=10]

Gives a known share of the digits' labels, of the training and of the evaluation
images, another class at random; trains a population on them; and ranks the
images of both splits by

  disagreement   rank_suspects: share of all members, dense and pruned, that
                 do not say the label
  PIE            levels at which the image is a PIE, then Taxicab distance
  low confidence mean cross entropy of the label over the dense members
  one network    the same for a single dense network, as one without a
                 population would do it
  cleanlab       label quality by the dense members' votes, if cleanlab is
                 installed

Prints, for each, the share of wrong labels among as many of its first images
as there are wrong labels (precision, and recall too), the same among the first
half as many, and the average precision: 1 is perfect, the share of wrong labels
is what chance gives. About five minutes on two cores.
"""

import dataclasses
import importlib
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pandas as pd
from absl import app, flags
from sklearn import metrics

from utils import (
  csvs,
  image_records,
  paths,
  populations,
  shard_files,
  storage,
  tables,
  tfrecords,
)

FLAGS = flags.FLAGS
_ROOT = pathlib.Path(__file__).parents[2]
_SPLITS = {'train': 'train', 'eval': 'validation'}


def stage(module: str, **options) -> None:
  """Runs a script as a user does."""
  command = [sys.executable, '-m', module]
  command += [f'--{name}={value}' for name, value in options.items()]
  done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
  if done.returncode:
    sys.exit(f'{command}: {done.stderr[-2000:]}')


def write_wrong_labels(
  source: str, folder: str, share: float, seed: int
) -> set[str]:
  """Copies a data set, a share of its labels changed; returns their keys."""
  records = image_records.read(source)
  rng = np.random.default_rng(seed)
  wrong, splits = set(), {}
  for split, shards in records.splits.items():
    splits[split] = {}
    for name in shards:
      path = storage.within(source, name)
      examples = []
      for example in tfrecords.read_examples(path, records):
        label = example.label
        if rng.random() < share:
          wrong.add(example.key)
          label = (label + rng.integers(1, records.num_classes)) % (
            records.num_classes
          )
        examples.append(
          tfrecords.encode(
            example.key,
            example.encoded,
            int(label),
            records.class_names[label],
          )
        )
      splits[split][name] = shard_files.write(
        storage.within(folder, name), examples
      )
  image_records.write(
    folder,
    dataclasses.replace(records, name='wrong_labels', splits=splits),
  )
  return wrong


def train(data: str, folder: str, replicates: int) -> None:
  """Trains the population, with the settings of run.sh."""
  stage(
    'save_checkpoint.imagenet_train_eval',
    mode='train',
    data_directory=data,
    output_dir=f'{folder}/checkpoints/wrong_labels',
    pruning_method='threshold',
    end_sparsity='0,0.5,0.9',
    num_replicates=replicates,
    resnet_depth=18,
    width=0.125,
    train_batch_size=64,
    train_steps=168,
    base_learning_rate=0.4,
    warmup_epochs=0.96,
    decay_epochs='8.04,11.04',
    sparsity_begin_step=28,
    sparsity_end_step=147,
    pruning_frequency=12,
  )


def scores(folder: str, mode: str) -> pd.DataFrame:
  """How suspect each ranking finds each image of a split: more is worse."""
  results = f'{folder}/results'
  predictions = paths.predictions_folder(results, 'wrong_labels', mode)
  stage(
    'pie_dataset_gen.imagenet_predictions',
    ckpt_dir=f'{folder}/checkpoints/wrong_labels',
    data_directory=f'{folder}/data',
    output_path=results,
    mode=mode,
  )
  stage(
    'pie_dataset_gen.aggregate_predictions',
    data_directory=predictions,
    output_path=results,
    dataset_name='wrong_labels',
    mode=mode,
  )
  stage(
    'pie_dataset_gen.rank_suspects',
    results_directory=results,
    dataset_name='wrong_labels',
    mode=mode,
  )
  suspects = csvs.read(
    tables.SUSPECTS, paths.suspects(results, 'wrong_labels', mode)
  ).set_index('image_key')
  made = csvs.read_all(
    tables.PREDICTIONS,
    csvs.find(tables.PREDICTIONS, predictions),
    (*tables.MEMBER_KEY, 'image_key', 'predictions', 'cross_entropy'),
  )
  dense = made[made['pruning_method'] == populations.BASELINE]
  found = pd.DataFrame(
    {
      'disagreement': -suspects['rank'],
      'PIE': suspects['pie_levels'] + suspects['taxicab_share'],
      'low confidence': dense.groupby('image_key')['cross_entropy'].mean(),
      'one network': dense[dense['replicate'] == 0].set_index('image_key')[
        'cross_entropy'
      ],
    }
  )
  try:
    cleanlab = importlib.import_module('cleanlab.rank')
  except ImportError:
    return found
  votes = pd.crosstab(dense['image_key'], dense['predictions'])
  votes = votes.reindex(columns=range(10), fill_value=0).loc[found.index]
  quality = cleanlab.get_label_quality_scores(
    suspects.loc[found.index, 'true_class_label'].to_numpy(),
    votes.to_numpy() / votes.sum(axis=1).to_numpy()[:, None],
    method='normalized_margin',
  )
  return found.assign(cleanlab=-quality)


def main(argv):
  """Prints precision and recall of every ranking."""
  del argv
  with tempfile.TemporaryDirectory() as folder:
    stage(
      'save_checkpoint.build_image_data',
      source='digits',
      output_dir=f'{folder}/right',
    )
    wrong = write_wrong_labels(
      f'{folder}/right', f'{folder}/data', FLAGS.share, FLAGS.seed
    )
    train(f'{folder}/data', folder, FLAGS.replicates)
    for mode, split in _SPLITS.items():
      found = scores(folder, mode)
      truth = found.index.isin(wrong)
      number = truth.sum()
      print(f'{split}: {number} of {len(truth)} labels are wrong')
      for name, score in found.items():
        truth_by_rank = truth[np.argsort(-score.to_numpy(), kind='stable')]
        print(
          f'  {name:15s} first {number}: precision = recall = '
          f'{truth_by_rank[:number].mean():.3f}; first {number // 2}: '
          f'precision {truth_by_rank[: number // 2].mean():.3f}, recall '
          f'{truth_by_rank[: number // 2].sum() / number:.3f}; average '
          f'precision {metrics.average_precision_score(truth, score):.3f}'
        )


if __name__ == '__main__':
  flags.DEFINE_float('share', 0.1, 'Share of labels made wrong, in (0, 1).')
  flags.DEFINE_integer('replicates', 10, 'Networks at each of three levels.')
  flags.DEFINE_integer('seed', 0, 'Decides which labels, and how.')
  app.run(main)
