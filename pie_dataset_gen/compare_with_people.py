r"""Are PIEs the images that people find hard? Holds a study against people.

Reads the predictions of all members and a CSV of what people said of the
images, one row for each `image_key`, with either how many people chose each
class, in columns that begin with --counts_prefix and stand in the order of the
class ids, or one number, in the column --score:

  image_key,humans_cat,humans_dog        image_key,is_wrong
  cat/0000.jpg,48,2                      cat/0000.jpg,0

  python -m pie_dataset_gen.compare_with_people --study=runs/cifar10 \
      --people=humans.csv --counts_prefix=humans_

writes <results_directory>/<dataset_name>/<mode>_people_<name of the CSV>.csv
(utils/tables.py: PEOPLE). From counts come three scores of an image: the
`entropy` of people's choices, the share of people whose choice is not the label
(`disagreement`), and whether `another_class` has more votes than the label.
Images that only one of both sides has are left out, and counted.

For each level and score it says how much higher the score is on PIEs than on
other images (`difference`; `auc`), how it goes with the distance of the votes
(`spearman`), and how much higher it is within images on which the dense
networks vote alike (`matched_difference`): beyond difficulty, as far as dense
networks know it. The interval is one over images, the networks as they are.

Images on which networks are torn are hard for people, too, and chance makes
them PIEs. So `by_chance` is the same number for PIEs between permuted
memberships, dense or not, of the same networks, and `pvalue` the share of
memberships that give as large a one: is what compression changed harder for
people than what chance changes? Levels of pairs and the rule for ties are those
of aggregate_predictions, which has to be run before.

In rows of `baseline` and of `all` stand what is known without PIEs: rank
correlations of the score with the share of dense networks (or of all, level by
level, as rank_suspects ranks) that do not predict the label, and with that of
one dense network's, the mean over networks. Where a score is 0 or 1, as that of
a wrong label, follow the area under the curve, the average precision, and the
precision among as many first images as have a 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import threadpoolctl
from absl import flags, logging
from etils import epath

from pie_dataset_gen import people, pie_resampling, rounding, shard_predictions
from utils import (
  command_line,
  csvs,
  membership,
  paths,
  populations,
  provenance,
  tables,
)

_SCRIPT = 'pie_dataset_gen.compare_with_people'
# Of all members, level by level.
ALL = 'all'


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'people', '', 'CSV of image_key and what people said of the image.'
  )
  flags.DEFINE_string(
    'counts_prefix',
    '',
    'Beginning of the names of the columns that count people by class, in the '
    'order of the class ids.',
  )
  flags.DEFINE_string(
    'score', '', 'Column of one number for each image, in place of counts.'
  )
  flags.DEFINE_string('data_directory', '', 'Folder of the predictions.')
  flags.DEFINE_string(
    'results_directory',
    '',
    'Folder of the results: those of aggregate_predictions are read there, and '
    'this goes there.',
  )
  flags.DEFINE_enum('mode', 'eval', ['eval', 'train'], 'Split of the images.')
  flags.DEFINE_string(
    'dataset_name',
    '',
    'Name of the data set, a folder of the results. Empty: that of --study, or '
    "'imagenet'.",
  )
  flags.DEFINE_integer(
    'num_permutations',
    999,
    'Permuted memberships behind what chance gives.',
    lower_bound=19,
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the permutations.')


def read_people(
  path: str, counts_prefix: str, score: str
) -> tuple[pd.Index, np.ndarray]:
  """Reads what people said.

  Args:
    path: the CSV.
    counts_prefix: beginning of the names of the columns of counts, or empty.
    score: name of the one column, if there are no counts.

  Returns:
    The image keys, and the columns [images, classes] or [images, 1].

  Raises:
    FileNotFoundError, ValueError: it is not there or no such table; names it.
  """
  if bool(counts_prefix) == bool(score):
    raise ValueError(
      f'--counts_prefix is {counts_prefix!r} and --score is {score!r}, wanted '
      'one of the two'
    )
  names = [score]
  if counts_prefix:
    columns, _ = csvs.read_head(path)
    names = [name for name in columns if name.startswith(counts_prefix)]
    if len(names) < 2:
      raise ValueError(
        f'{path} has the columns {columns}, wanted one for each class whose '
        f'name begins with --counts_prefix={counts_prefix}'
      )
  table = csvs.Table(
    'what people say',
    'an image',
    'you',
    path,
    (
      csvs.Column('image_key', 'text', "the image's identity"),
      *(
        csvs.Column(name, 'float', 'people', low=0.0 if counts_prefix else None)
        for name in names
      ),
    ),
    ('image_key',),
    (),
  )
  frame = csvs.read(table, path)
  values = frame[names].to_numpy(float)
  if counts_prefix and (nobody := values.sum(axis=1) == 0).any():
    raise ValueError(
      f'{path}: nobody chose a class of {int(nobody.sum())} images, for '
      f'example {frame["image_key"][int(nobody.argmax())]!r}: leave them out'
    )
  return pd.Index(frame['image_key']), values


def read_predictions(
  data_directory: str, dataset_name: str, mode: str, keys: pd.Index
) -> tuple[shard_predictions.Predictions, int]:
  """Reads the predictions of the images that people saw.

  Returns:
    The predictions, and how many images were left out.

  Raises:
    FileNotFoundError, ValueError: as `shard_predictions`; or no image is known
      to both.
  """
  shards = shard_predictions.find_shards(data_directory, dataset_name, mode, '')
  same = shard_predictions.SameMembers()
  parts = []
  for shard, files in shards.items():
    part = shard_predictions.read_shard(files, mode)
    same.check(shard, part.members, part.image_key)
    known = np.isin(part.image_key, keys)
    parts.append(shard_predictions.part_of(part, known))
  found = shard_predictions.joined(parts)
  if not len(found.image_key):
    raise ValueError(
      f'people saw none of the {same.num_images} images: the keys of '
      f'predictions look like {part.image_key[0]!r}, theirs like {keys[0]!r}'
    )
  return found, same.num_images - len(found.image_key)


def compare_level(
  predictions: shard_predictions.Predictions,
  scores: Mapping[str, np.ndarray],
  null: Mapping[str, Any],
  num_permutations: int,
  seed: int,
) -> list[dict[str, object]]:
  """Rows of `tables.PEOPLE` of a level.

  Args:
    predictions: of the images.
    scores: [images] by name.
    null: the level's row of `tables.PIE_NULL`.
    num_permutations: memberships beside the true one.
    seed: of them.
  """
  level = populations.level_of(null)
  dense = predictions.columns_of(populations.DENSE)
  compressed = predictions.columns_of(level)
  drawn = pie_resampling.draw(
    len(dense), len(compressed), 0, num_permutations, seed, null['is_paired']
  )
  assert drawn.memberships is not None
  found: dict[str, list] = {name: [] for name in scores}
  first = None
  for groups in people.groups(
    predictions, dense, compressed, drawn.memberships, null['tie_rule']
  ):
    first = first or groups
    for name, score in scores.items():
      found[name].append(people.statistics(score, groups))
  assert first is not None
  pie, stratum, distance_rank = (of[:, 0] for of in first)
  rows = []
  for name, score in scores.items():
    estimates = {
      'difference': people.difference(score, pie),
      'auc': people.auc(score, pie),
      'matched_difference': people.matched_difference(score, pie, stratum),
      'spearman': people.spearman(score, distance_rank),
    }
    for statistic, estimate in estimates.items():
      ways = np.concatenate([block[statistic] for block in found[name]])
      rows.append(
        {
          **_row(level.pruning_method, level.fraction_pruned, name),
          'ranking': 'distance' if statistic == 'spearman' else 'pie',
          'statistic': statistic,
          **_estimate(estimate),
          **_by_chance(ways),
          'images_count': len(score),
          'chosen_count': int(pie.sum()),
        }
      )
  return rows


def _row(method: str, fraction: float, score: str) -> dict[str, object]:
  return {
    'pruning_method': method,
    'pruning_fraction': fraction,
    'people_score': score,
  }


def _estimate(estimate: people.Estimate) -> dict[str, float]:
  return {
    'value': estimate.value,
    'value_low': estimate.low,
    'value_high': estimate.high,
  }


def _by_chance(ways: np.ndarray) -> dict[str, float]:
  """What permuted memberships give, and how many as much as the true one."""
  others = ways[1:][np.isfinite(ways[1:])]
  if not len(others) or not np.isfinite(ways[0]):
    return {}
  low, high = np.percentile(others, (2.5, 97.5))
  # Memberships without PIEs are not as large.
  return {
    'by_chance': float(others.mean()),
    'by_chance_low': float(low),
    'by_chance_high': float(high),
    'pvalue': float(membership.pvalue(ways)),
  }


def compare_rankings(
  predictions: shard_predictions.Predictions, scores: Mapping[str, np.ndarray]
) -> list[dict[str, object]]:
  """Rows of `tables.PEOPLE` of rankings that know nothing of PIEs."""
  wrong = predictions.label != predictions.true_class[:, None]
  dense = predictions.columns_of(populations.DENSE)
  levels = {shard_predictions.level_of(m) for m in predictions.members}
  by_level = [
    wrong[:, predictions.columns_of(level)].mean(axis=1) for level in levels
  ]
  # Surely wrong comes first, surely right last.
  sure = np.nan_to_num(predictions.probability[:, dense], nan=1.0)
  alone = np.where(wrong[:, dense], sure, -sure)
  # Rounded, so that no order of summation breaks a tie.
  rankings = {
    (populations.DENSE.pruning_method, 'disagreement'): wrong[:, dense]
    .mean(axis=1, keepdims=True)
    .round(12),
    (populations.DENSE.pruning_method, 'one_network'): alone,
    (ALL, 'disagreement'): np.mean(by_level, axis=0)[:, None].round(12),
  }
  rows = []
  for name, score in scores.items():
    is_binary = set(np.unique(score)) <= {0.0, 1.0}
    for (method, ranking), suspicions in rankings.items():
      about = {
        **_row(method, 0.0, name),
        'ranking': ranking,
        'images_count': len(score),
      }
      found = _of_rankings(suspicions.T, score)
      rows.append({**about, 'statistic': 'spearman', **found})
      if is_binary:
        about['chosen_count'] = int(score.sum())
        rows += [about | more for more in _of_finding(suspicions.T, score > 0)]
  return rows


def _of_rankings(suspicions: np.ndarray, score: np.ndarray) -> dict[str, float]:
  """The rank correlation, a mean over rankings [rankings, images]."""
  return _estimate(
    people.Estimate(
      *np.mean([people.spearman(score, one) for one in suspicions], axis=0)
    )
  )


def _of_finding(
  suspicions: np.ndarray, positive: np.ndarray
) -> list[dict[str, object]]:
  """How well rankings [rankings, images] find images; means over rankings."""
  first = pd.DataFrame(
    [people.found_first(one, positive) for one in suspicions]
  )
  curve = np.mean([people.auc(one, positive) for one in suspicions], axis=0)
  return [
    {
      'statistic': 'auc',
      **_estimate(people.Estimate(*curve)),
      'by_chance': 0.5,
    },
    *(
      {'statistic': name, 'value': value, 'by_chance': positive.mean()}
      for name, value in first.mean().items()
    ),
  ]


def sentences(rows: pd.DataFrame) -> list[str]:
  """What the rows about PIEs say, in words that their tests support.

  Args:
    rows: of `tables.PEOPLE`.
  """
  said = []
  about_pies = rows[rows['statistic'] == 'difference']
  for row in about_pies.to_dict('records'):
    level = populations.level_of(row).words
    start = f'{level}: the score {row["people_score"]!r}'
    if np.isnan(row['value']):
      said.append(f'{start} is not compared: too few images are PIEs, or not.')
      continue
    told = (
      f'{start} is higher on the {row["chosen_count"]:.0f} PIEs than on other '
      f'images by {_number(row["value"])} [{_number(row["value_low"])}, '
      f'{_number(row["value_high"])}]'
    )
    if not np.isnan(row['pvalue']):
      told += f', on PIEs by chance by {_number(row["by_chance"])}: ' + (
        'more than chance explains'
        if row['pvalue'] <= tables.SIGNIFICANCE
        else 'that compression adds to it is not shown'
      )
      told += f' (p {rounding.p_value(row["pvalue"])})'
    said.append(f'{told}.')
  return said


def _number(value: float) -> str:
  return rounding.share(value, value)


def run(
  people_csv: str,
  data_directory: str,
  results_directory: str,
  *,
  mode: str,
  dataset_name: str,
  counts_prefix: str = '',
  score: str = '',
  num_permutations: int = 999,
  seed: int = 0,
) -> pd.DataFrame:
  """Compares; writes and returns the rows of `tables.PEOPLE`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: one is damaged, or they do not belong together.
  """
  keys, values = read_people(people_csv, counts_prefix, score)
  null_path = paths.pie_null(results_directory, dataset_name, mode)
  null = csvs.read(tables.PIE_NULL, null_path)
  predictions, unseen = read_predictions(
    data_directory, dataset_name, mode, keys
  )
  values = values[keys.get_indexer(predictions.image_key)]
  logging.info(
    '%d images; left out are %d that people did not see and %d that were not '
    'predicted',
    len(values),
    unseen,
    len(keys) - len(values),
  )
  scores = {score: values[:, 0]}
  if counts_prefix:
    largest = max(predictions.true_class.max(), predictions.label.max())
    if largest >= values.shape[1]:
      raise ValueError(
        f'{people_csv} counts {values.shape[1]} classes, the predictions name '
        f'class {largest}'
      )
    scores = people.scores_of_counts(values, predictions.true_class)
  rows = compare_rankings(predictions, scores)
  for of_level in null.to_dict('records'):
    if populations.level_of(of_level) not in map(
      shard_predictions.level_of, predictions.members
    ):
      raise ValueError(
        f'{null_path} is of other predictions: there are none of '
        f'{populations.level_of(of_level).words}; run aggregate_predictions'
      )
    # The matrices are small: threads that share one cost more than they save.
    with threadpoolctl.threadpool_limits(1):
      rows += compare_level(
        predictions, scores, of_level, num_permutations, seed
      )
  frame = pd.DataFrame(rows).reindex(
    columns=[column.name for column in tables.PEOPLE.columns]
  )
  path = paths.people(
    results_directory, dataset_name, mode, epath.Path(people_csv).stem
  )
  csvs.write(tables.PEOPLE, frame, path)
  for sentence in sentences(frame):
    logging.info('%s', sentence)
  logging.info('wrote %s', path)
  provenance.write(
    str(epath.Path(path).parent), _SCRIPT, [people_csv, null_path]
  )
  return frame


def main(argv: Sequence[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  if not f.people:
    raise ValueError('--people is missing: wanted a CSV')
  command_line.with_study(
    f, {'data_directory': 'predictions', 'results_directory': 'results'}
  )
  run(
    f.people,
    f.data_directory,
    f.results_directory,
    mode=f.mode,
    dataset_name=f.dataset_name or 'imagenet',
    counts_prefix=f.counts_prefix,
    score=f.score,
    num_permutations=f.num_permutations,
    seed=f.seed,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
