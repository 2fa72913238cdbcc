r"""Says how many networks a level needs, from the few of a pilot.

A population of 30 networks a level costs days; what would 10 have shown? Reads
of the networks that are there (a pilot, or a study), in --study or by flags,
whichever of these there are:

  class metrics  of per_class_accuracy.aggregate_ckpt_metrics, of classes and,
                 if there, of groups. How much members differ says which change
                 n members a side would find: the smallest that the two-sided
                 Welch test at 5 % finds in 8 of 10 studies. The recall of
                 classes and groups is taken less the accuracy of its member,
                 as gen_tstatistic does; the accuracy of the whole as it is.
                 "Corrected" is 5 % over the number of classes whose recall
                 is known (Bonferroni), which is safe: gen_tstatistic corrects
                 by the false discovery rate, which asks for less where many
                 classes move.
  predictions    of pie_dataset_gen.imagenet_predictions, or of any framework.
                 The exact test of aggregate_predictions is made again on random
                 subsets of n dense and n compressed members: the p-value in the
                 middle, and how many subsets have one of 0.05 or less.

Prints a table for each level, and writes, for --num_members and the size of the
pilot, <output_path>/<dataset_name>/<mode>_members_needed.csv (utils/tables.py:
MEMBERS_NEEDED; all classes, one by one) and <mode>_subset_tests.csv
(SUBSET_TESTS), anew at every run. One that is not made, without metrics or
without predictions, is removed: the two are of one run.

  python -m pie_dataset_gen.how_many_members --study=runs/digits

Three things to know. The deviation of a few members is itself known badly: its
95 % interval is given, as that of the change; plan for its upper end. Subsets
share members, so those of nearly all members are nearly the same, and say
little about another study of that size. Changes are those of normal values
whose variances stay as they are in the pilot.

Where each member was made from the dense one of its number (quantised, say; the
column made_from says so), pairs are asked about: the test is that of pairs, and
subsets are of pairs, of which the two change places.

Expect seconds; 180 members x 50,000 images take the time in which pandas reads
them, --num_cores shards at a time, and 1,000 classes some seconds more.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import threadpoolctl
from absl import flags, logging
from etils import epath

from pie_dataset_gen import (
  detectable_change,
  member_subsets,
  pilot,
  pilot_report,
  shard_predictions,
)
from utils import (
  command_line,
  csvs,
  membership,
  paths,
  populations,
  provenance,
  storage,
  tables,
  workers,
)

_LEVEL = tables.SIGNIFICANCE


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'predictions_directory',
    '',
    'Folder or pattern of the predictions of all members. Empty, and no '
    '--study that has them: no exact test.',
  )
  flags.DEFINE_string(
    'class_metrics_directory',
    '',
    'Folder or pattern of the class metrics of all members. Empty, and no '
    '--study that has them: no changes of classes and of the whole.',
  )
  flags.DEFINE_string(
    'group_metrics_directory',
    '',
    'The same of groups. Empty, and no --study that has them: no groups.',
  )
  flags.DEFINE_string('output_path', '', 'Folder that results go into.')
  flags.DEFINE_enum('mode', 'eval', ['eval', 'train'], 'Split of the images.')
  flags.DEFINE_string(
    'dataset_name',
    '',
    'Name of the data set, a folder of the results. Empty: that of --study, or '
    "'imagenet'.",
  )
  flags.DEFINE_list(
    'num_members',
    ['2', '3', '4', '6', '10', '20', '30', '60'],
    'Numbers of members a side to ask about, 2 or more, separated by commas. '
    'The number in the pilot is added.',
  )
  flags.DEFINE_list(
    'sparsity_fraction',
    [],
    'Levels to ask about, fractions in [0, 1), separated by commas. Empty: all '
    'that are there.',
  )
  flags.DEFINE_string(
    'pruning_method',
    '',
    'Pruning method of these levels. Empty: all that are there.',
  )
  flags.DEFINE_integer(
    'num_subsamples',
    100,
    'Random subsets of the members for each number; all where they are no more',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'num_permutations',
    999,
    'Permuted memberships behind each p-value, '
    f'{membership.FEWEST_PERMUTATIONS} or more; all where they are no more.',
    lower_bound=1,
  )
  flags.DEFINE_integer('seed', 0, 'Seed of both.', lower_bound=0)
  flags.DEFINE_integer(
    'num_cores',
    2,
    'Shards read at once, each in a process and memory of its own; '
    'few rows use fewer.',
    lower_bound=1,
  )
  command_line.define_scheduler()


class Asked(NamedTuple):
  """What is asked.

  Attributes:
    num_members: members a side, two or more.
    fractions: levels, or empty for all.
    method: of the levels, or empty for all.
    subsets: of the members, for each number.
    permutations: behind each p-value.
    seed: of both.
  """

  num_members: tuple[int, ...] = (2, 3, 4, 6, 10, 20, 30, 60)
  fractions: tuple[float, ...] = ()
  method: str = ''
  subsets: int = 100
  permutations: int = 999
  seed: int = 0

  def levels(self, members: pilot.Members) -> list[populations.Level]:
    """The levels that are asked about; each has two members or more."""
    levels = populations.compressed_levels(
      members.sizes, self.fractions, self.method, members.source
    )
    members.check(levels, 2)
    return levels

  def sizes(
    self, members: pilot.Members, level: populations.Level
  ) -> list[int]:
    """Numbers of members a side, that of the pilot among them."""
    return sorted({*self.num_members, members.a_side(level)})


def _pairs(
  members: pilot.Members, levels: Sequence[populations.Level]
) -> set[populations.Level]:
  identities = [identity._asdict() for identity in members.identity]
  return populations.paired_levels(identities, levels)


def changes(
  recall: pilot.Recall, of_groups: bool, asked: Asked
) -> pd.DataFrame:
  """The smallest changes that are found: rows of `tables.MEMBERS_NEEDED`.

  Args:
    recall: of the pilot; of groups, or of classes and the whole.
    of_groups: which.
    asked: what is asked.
  """
  members = recall.members
  normalised = recall.recall - recall.accuracy[:, None]
  dense = members.positions(populations.DENSE)
  frames = []
  pairs = _pairs(members, asked.levels(members))
  for level in asked.levels(members):
    spread_of = detectable_change.spread
    if level in pairs:
      spread_of = detectable_change.spread_of_pairs
    compressed = members.positions(level)
    spread = spread_of(normalised[dense], normalised[compressed])
    # Constant classes are tested, too; those without images are not.
    tested = int(spread.deviation.size - np.isnan(spread.deviation).sum())
    units = pd.DataFrame(
      {
        'what': 'group' if of_groups else 'class',
        'class_id': recall.class_id,
        'class': recall.class_name,
      }
    )
    for size in asked.sizes(members, level):
      found = units.assign(
        **_cells(spread, size),
        smallest_change_corrected=detectable_change.smallest_change(
          spread, size, _LEVEL / max(tested, 1)
        ),
      )
      if not of_groups:
        whole = spread_of(
          recall.accuracy[dense, None], recall.accuracy[compressed, None]
        )
        named = {'what': 'accuracy', 'class_id': np.nan, 'class': ''}
        found = pd.concat(
          [
            pd.DataFrame({**named, **_cells(whole, size)}),
            _outstanding(found),
            found,
          ],
          ignore_index=True,
        )
      frames.append(
        found.assign(
          pruning_method=level.pruning_method,
          pruning_fraction=level.fraction_pruned,
          num_members=size,
          baseline_models=len(dense),
          variant_models=len(compressed),
          is_paired=int(level in pairs),
        )
      )
  columns = [column.name for column in tables.MEMBERS_NEEDED.columns]
  rows = pd.concat(frames, ignore_index=True).reindex(columns=columns)
  # The quadrature knows no more digits, and the last ones differ by version.
  of_changes = [name for name in columns if name.startswith('smallest_change')]
  return rows.assign(**rows[of_changes].round(6))


def _cells(
  spread: detectable_change.Spread, size: int
) -> dict[str, np.ndarray]:
  change = detectable_change.smallest_change(spread, size, _LEVEL)
  low, high = spread.uncertainty
  return {
    'smallest_change': change,
    'smallest_change_low': change * low,
    'smallest_change_high': change * high,
    'deviation': spread.deviation,
  }


def _outstanding(classes: pd.DataFrame) -> pd.DataFrame:
  """The class of median deviation, and that of the largest, as rows."""
  varied = classes[classes['deviation'] > 0].sort_values(
    ['deviation', 'class_id']
  )
  if varied.empty:
    return varied
  # Of an even number the lower: a class that there is.
  chosen = varied.iloc[[(len(varied) - 1) // 2, -1]]
  return chosen.assign(what=['typical class', 'noisiest class'])


def subset_tests(agreement: pilot.Agreement, asked: Asked) -> pd.DataFrame:
  """The exact test with fewer members: rows of `tables.SUBSET_TESTS`."""
  members = agreement.members
  dense = members.positions(populations.DENSE)
  rows = []
  pairs = _pairs(members, asked.levels(members))
  for level in asked.levels(members):
    both = np.concatenate([dense, members.positions(level)])
    matrix = agreement.matrix[np.ix_(both, both)]
    for size in asked.sizes(members, level):
      # The matrices are small: threads that share one cost more than they save.
      with threadpoolctl.threadpool_limits(1):
        found = member_subsets.compare_subsets(
          matrix,
          len(dense),
          size,
          subsets=asked.subsets,
          permutations=asked.permutations,
          seed=asked.seed,
          paired=level in pairs,
        )
      row = {
        'pruning_method': level.pruning_method,
        'pruning_fraction': level.fraction_pruned,
        'num_members': size,
        'smallest_pvalue': found.smallest,
        'subsets': len(found.pvalues),
        'median_pvalue': np.nan,
        'share_found': np.nan,
        'is_paired': int(level in pairs),
      }
      if len(found.pvalues):
        row['median_pvalue'] = np.median(found.pvalues)
        row['share_found'] = (found.pvalues <= _LEVEL).mean()
      rows.append(row)
  return pd.DataFrame(rows)


def _check_same(first: pilot.Members, second: pilot.Members, asked: Asked):
  """Refuses parts that different networks made."""
  parts = []
  for members in (first, second):
    levels = {populations.DENSE, *asked.levels(members)}
    parts.append(
      {i for i in members.identity if shard_predictions.level_of(i) in levels}
    )
  if differ := sorted(parts[0] ^ parts[1]):
    raise ValueError(
      f'{first.source} and {second.source} hold different members: '
      f'{len(differ)} stand in one of them only, for example '
      f'{differ[0]._asdict()}'
    )


def run(
  output_path: str,
  *,
  mode: str,
  dataset_name: str,
  predictions_directory: str = '',
  class_metrics_directory: str = '',
  group_metrics_directory: str = '',
  asked: Asked | None = None,
  place: workers.Place = workers.HERE,
) -> str:
  """Writes both tables; returns what there is to print.

  Raises:
    FileNotFoundError: there is no pilot.
    ValueError: it is damaged, its parts are of different networks, a level has
      fewer than two members, or permutations are too few.
  """
  asked = asked or Asked()
  fewest = membership.FEWEST_PERMUTATIONS
  if asked.permutations < fewest:
    raise ValueError(
      f'--num_permutations is {asked.permutations}, wanted {fewest} or more: '
      f'fewer than {fewest} cannot give a p of {_LEVEL:g}'
    )
  if not (predictions_directory or class_metrics_directory):
    raise FileNotFoundError(
      'there are neither predictions nor class metrics to start from: wanted '
      '--study with what '
      f'{tables.PREDICTIONS.written_by} or {tables.CLASS_METRICS.written_by} '
      'writes, --predictions_directory or --class_metrics_directory'
    )
  read: list[pilot.Members] = []
  files: list[str] = []
  needed = [csvs.empty(tables.MEMBERS_NEEDED)]
  tests = csvs.empty(tables.SUBSET_TESTS)
  for directory, of_groups in (
    (class_metrics_directory, False),
    (group_metrics_directory, True),
  ):
    if directory:
      recall = pilot.read_recall(directory, mode)
      needed.append(changes(recall, of_groups, asked))
      read.append(recall.members)
      files += recall.files
  num_predictions = 0
  if predictions_directory:
    shards = shard_predictions.find_shards(
      predictions_directory, dataset_name, mode, ''
    )
    num_predictions = sum(map(len, shards.values()))
    for path in files[:1]:
      provenance.check_same_networks(
        (path, tables.CLASS_METRICS.written_by),
        (next(iter(shards.values()))[0], tables.PREDICTIONS.written_by),
      )
    agreement = pilot.read_agreement(shards, predictions_directory, mode, place)
    read.append(agreement.members)
  for other in read[1:]:
    _check_same(read[0], other, asked)
  every = pd.concat(needed[1:] or needed, ignore_index=True)
  if predictions_directory:
    tests = subset_tests(agreement, asked)
  path = paths.members_needed(output_path, dataset_name, mode)
  # No settings: both tables are replaced, so that other numbers may be asked.
  record = provenance.Provenance(
    str(epath.Path(path).parent), 'pie_dataset_gen.how_many_members', {}
  )
  record.start()
  _replace(tables.MEMBERS_NEEDED, every, path)
  _replace(
    tables.SUBSET_TESTS,
    tests,
    paths.subset_tests(output_path, dataset_name, mode),
  )
  # Predictions are not listed one by one: there may be 23,040.
  record.finish(files, predictions={'files': num_predictions})
  return pilot_report.report(every, tests, read[0], asked.levels(read[0]))


def _replace(table: csvs.Table, rows: pd.DataFrame, path: str) -> None:
  """Writes a table, or removes a former one where there are no rows."""
  if len(rows):
    csvs.write(table, rows, path)
    logging.info('wrote %s', path)
  elif storage.exists(path):
    epath.Path(path).unlink()
    logging.info('%s is of a former run: removed', path)


def parse_sizes(texts: Sequence[str]) -> tuple[int, ...]:
  """The numbers of members in --num_members.

  Raises:
    ValueError: one is no whole number of 2 or more.
  """
  found = command_line.numbers('num_members', texts)
  if not found or any(n < 2 or n != int(n) for n in found):
    raise ValueError(
      f'--num_members is {",".join(texts)!r}, wanted whole numbers of 2 or '
      'more: a variance needs 2'
    )
  return tuple(map(int, found))


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(
    f,
    {'output_path': 'results'},
    {
      'predictions_directory': 'predictions',
      'class_metrics_directory': 'class_metrics',
      'group_metrics_directory': 'group_metrics',
    },
  )
  print(
    run(
      f.output_path,
      mode=f.mode,
      dataset_name=f.dataset_name or 'imagenet',
      predictions_directory=f.predictions_directory,
      class_metrics_directory=f.class_metrics_directory,
      group_metrics_directory=f.group_metrics_directory,
      asked=Asked(
        num_members=parse_sizes(f.num_members),
        fractions=command_line.fractions(
          'sparsity_fraction', f.sparsity_fraction
        ),
        method=f.pruning_method,
        subsets=f.num_subsamples,
        permutations=f.num_permutations,
        seed=f.seed,
      ),
      place=workers.Place(f.num_cores, f.scheduler),
    )
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
