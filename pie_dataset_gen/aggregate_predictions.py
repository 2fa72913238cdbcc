r"""Finds the most frequent prediction of each image, per level of sparsity.

Reads the predictions of all members (the CSVs of `imagenet_predictions`, or
any that have the required columns of `tables.PREDICTIONS`), one folder for
each shard of the data set, one file for each member. Members of one
`pruning_method` and `fraction_pruned` are a level; the level ('baseline', 0)
is the dense population that every other is held against. Writes

  <output_path>/<dataset_name>/modal_labels/<mode>/<shard>/<method>_<level>.csv
    for each image the modal label of the dense and of the pruned population,
    how many members voted for it, and how far apart the votes are;
  <output_path>/<dataset_name>/<mode>_pie_null.csv
    for each level the number of images whose modal labels differ (PIEs), how
    many of them hang on the rule for ties, how many chance alone would give,
    and how far the number moves when other members had been trained.

  python -m pie_dataset_gen.aggregate_predictions --study=runs/digits

takes seconds. Shards are independent and read --num_cores at a time, so memory
does not grow with the data set: 180 members x 50,000 images take about the time
in which pandas reads the files. No TensorFlow is needed. What is there, made
from the same predictions, is not made again; from others, it is; with other
settings (--tie_rule, say) it is refused, since what is made from it would mix.

How many PIEs would chance give? Two dense populations differ as well, since
training is random. The dense members are split at random into two halves,
many times, and PIEs are counted between the halves (null_mean); beside it
stands the count between a dense half and as many pruned members
(pruned_half_mean). Only these two are alike in all but the pruning: modal
labels of small populations are noisier, so neither compares to pie_count,
which all members give.

Does a level predict otherwise than chance explains? energy_pvalue answers:
which of the members are called dense is permuted, --num_permutations times, and
p is the share of memberships that set the votes as far apart as the true one
does (pie_dataset_gen/membership.py). It uses all members, and sees changes that
flip no majority.
"""

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import threadpoolctl
from absl import flags, logging
from etils import epath

from pie_dataset_gen import membership, pie_resampling, shard_predictions, votes
from utils import (
  command_line,
  csvs,
  digests,
  paths,
  populations,
  provenance,
  storage,
  tables,
  workers,
)

_SCRIPT = 'pie_dataset_gen.aggregate_predictions'
# Bounds the memory: images that are counted at once.
_BLOCK_IMAGES = 1024
_WHOLE = 'all shards'


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'data_directory',
    '',
    'Folder of predictions: the --output_path of imagenet_predictions, or any '
    "folder or pattern of CSVs; a file's folder is named after its shard.",
  )
  flags.DEFINE_string('output_path', '', 'Folder that results go into.')
  flags.DEFINE_enum(
    'mode', 'eval', ['eval', 'train'], 'Split that was predicted.'
  )
  flags.DEFINE_string(
    'dataset_name',
    '',
    'Name of the data set, a folder of the results. Empty: that of --study, or '
    "'imagenet'.",
  )
  flags.DEFINE_string(
    'subdirectory',
    '',
    'Name of the one shard to aggregate. Empty: all shards that are there.',
  )
  flags.DEFINE_integer(
    'num_classes',
    0,
    'Classes of the data set: a class id of as many or more is an error. 0: '
    'unknown, nothing is checked.',
    lower_bound=0,
  )
  flags.DEFINE_list(
    'sparsity_fraction',
    [],
    'Levels to compare with the baseline, fractions in [0, 1), separated by '
    'commas. Empty: all levels that are there.',
  )
  flags.DEFINE_string(
    'pruning_method',
    '',
    'Pruning method of the levels to compare. Empty: all that are there.',
  )
  flags.DEFINE_enum(
    'tie_rule',
    'largest',
    votes.TIE_RULES,
    'Which of several labels with as many votes is the modal one: the largest '
    'class id (as in the original), the smallest, or the one whose voters are '
    'surer (mean predicted probability, then the largest class id).',
  )
  flags.DEFINE_integer(
    'num_resamples',
    100,
    'Random halves, and resamples of the members, behind the null and the '
    'intervals of the PIE count. 0: neither is computed.',
    lower_bound=0,
  )
  flags.DEFINE_integer(
    'num_permutations',
    999,
    'Permuted memberships behind the p-value of each level; fewer where there '
    'are no more. 0: it is not computed.',
    lower_bound=0,
  )
  flags.DEFINE_integer(
    'seed', 0, 'Seed of the halves, resamples and permutations.'
  )
  flags.DEFINE_integer(
    'num_cores',
    2,
    'Shards aggregated at once, each in a process and memory of its own.',
    lower_bound=1,
  )


class ShardCounts(NamedTuple):
  """What a shard adds to the counts of the data set.

  Attributes:
    shard: its name.
    members: [members] sorted.
    image_key: [images].
    counts: for each level counts by name; those over resamples are [repeats].
    agreement: [members, members] images on which two members agree.
  """

  shard: str
  members: list[shard_predictions.Identity]
  image_key: np.ndarray
  counts: dict[populations.Level, Any]
  agreement: np.ndarray


def count_shard(
  predictions: shard_predictions.Predictions,
  levels: Sequence[populations.Level],
  resamples: Mapping[populations.Level, pie_resampling.Resamples],
  tie_rule: str,
) -> tuple[
  dict[populations.Level, pd.DataFrame],
  dict[populations.Level, dict[str, np.ndarray]],
]:
  """The modal labels of a shard, with what its images add to the null.

  Args:
    predictions: what all members predicted.
    levels: those to hold against the baseline.
    resamples: random subsets of the members, for each level.
    tie_rule: one of `votes.TIE_RULES`.

  Returns:
    For each level the rows of `tables.MODAL_LABELS` but the shard's name, and
    the counts by name; those over resamples have the shape [repeats].
  """
  frames: dict[populations.Level, list[pd.DataFrame]] = {
    level: [] for level in levels
  }
  counts: dict[populations.Level, Any] = {
    level: collections.Counter() for level in levels
  }
  dense = predictions.columns_of(populations.DENSE)
  for start in range(0, len(predictions.image_key), _BLOCK_IMAGES):
    images = slice(start, start + _BLOCK_IMAGES)
    part = shard_predictions.part_of(predictions, images)
    contested = pie_resampling.contested_ballots(part)
    for level, (frame, added) in votes.count_votes(
      part, levels, tie_rule
    ).items():
      frames[level].append(frame)
      resampled = pie_resampling.count_pies(
        contested, dense, part.columns_of(level), resamples[level], tie_rule
      )
      for name, count in {**added, **resampled}.items():
        counts[level][name] = counts[level][name] + count
  joined = {
    level: pd.concat(parts, ignore_index=True)
    for level, parts in frames.items()
  }
  return joined, counts


def aggregate_shard(
  shard: str,
  files: Sequence[str],
  *,
  output_path: str,
  record: provenance.Provenance,
  outdated: str,
  mode: str,
  dataset_name: str,
  num_classes: int,
  sparsity_fraction: Sequence[float],
  pruning_method: str,
  tie_rule: str,
  num_resamples: int,
  seed: int,
) -> ShardCounts:
  """Writes the modal labels of one shard; returns what the null needs.

  Args:
    shard: its name.
    files: the predictions of all members.
    output_path: folder of the results.
    record: started before the first table appears.
    outdated: the null of a former run, removed before: where it lies, the
      modal labels beside it are complete.
    mode: split.
    dataset_name: a folder of the results.
    num_classes: of the data set, or 0.
    sparsity_fraction: levels, or empty for all.
    pruning_method: of the levels, or empty for all.
    tie_rule: one of `votes.TIE_RULES`.
    num_resamples: halves, and resamples.
    seed: of these.
  """
  predictions = shard_predictions.read_shard(files, mode, num_classes)
  populations.check_alike(member._asdict() for member in predictions.members)
  size = sizes(predictions.members)
  levels = populations.compressed_levels(
    size, sparsity_fraction, pruning_method
  )
  resamples = {
    level: pie_resampling.draw(
      size[populations.DENSE], size[level], num_resamples, seed
    )
    for level in levels
  }
  # The matrices are small: threads that share one cost more than they save.
  with threadpoolctl.threadpool_limits(1):
    frames, counts = count_shard(predictions, levels, resamples, tie_rule)
  epath.Path(outdated).unlink(missing_ok=True)
  record.start()
  for level, frame in frames.items():
    csvs.write(
      tables.MODAL_LABELS,
      frame.assign(filename=shard),
      paths.modal_labels(output_path, dataset_name, mode, shard, level),
    )
  return ShardCounts(
    shard,
    predictions.members,
    predictions.image_key,
    counts,
    membership.agreement(predictions.label),
  )


def sizes(
  members: Iterable[shard_predictions.Identity],
) -> dict[populations.Level, int]:
  """How many members each level has."""
  return collections.Counter(map(shard_predictions.level_of, members))


def _map(work, shards: dict[str, list[str]], num_cores: int):
  """Yields the results for all shards in order."""
  number = min(num_cores, len(shards))
  if number == 1:
    yield from map(work, shards, shards.values())
    return
  with workers.processes(number) as pool:
    yield from pool.map(work, shards, shards.values())


def add_up(results: Iterable[ShardCounts], number: int) -> ShardCounts:
  """Adds up the counts of all shards.

  Raises:
    ValueError: an image stands in two shards, or members differ.
  """
  total: Any = None
  seen: dict[str, str] = {}
  for done, result in enumerate(results, 1):
    if total is None:
      total = result._replace(
        counts={level: collections.Counter() for level in result.counts},
        agreement=np.zeros_like(result.agreement),
      )
    if result.members != total.members:
      differ = sorted(set(result.members) ^ set(total.members))
      raise ValueError(
        f'shards {total.shard} and {result.shard} were predicted by different '
        f'members: {len(differ)} in one of them only, for example '
        f'{differ[0]._asdict()}'
      )
    for key in result.image_key:
      if seen.setdefault(key, result.shard) != result.shard:
        raise ValueError(
          f'image {key!r} stands in two shards, {seen[key]} and {result.shard}'
        )
    total = total._replace(agreement=total.agreement + result.agreement)
    for level, counts in result.counts.items():
      for name, count in counts.items():
        total.counts[level][name] = total.counts[level][name] + count
    logging.info(
      '%s: %d images, %d members (%d of %d shards)',
      result.shard,
      len(result.image_key),
      len(result.members),
      done,
      number,
    )
  return total


def run(
  data_directory: str,
  output_path: str,
  *,
  mode: str,
  dataset_name: str,
  subdirectory: str = '',
  num_classes: int = 0,
  sparsity_fraction: Sequence[float] = (),
  pruning_method: str = '',
  tie_rule: str = 'largest',
  num_resamples: int = 100,
  num_permutations: int = 999,
  seed: int = 0,
  num_cores: int = 1,
) -> pd.DataFrame:
  """Aggregates the predictions of all shards.

  Returns:
    The rows of `tables.PIE_NULL`, which were written.

  Raises:
    FileNotFoundError: there are no predictions.
    ValueError: they are damaged, do not belong together, or the results that
      are there were made with other settings.
  """
  if num_resamples < 0 or num_resamples == 1:
    raise ValueError(
      f'num_resamples is {num_resamples}, wanted 2 or more, or 0 for none'
    )
  shards = shard_predictions.find_shards(
    data_directory, dataset_name, mode, subdirectory
  )
  settings: dict[str, Any] = {
    'mode': mode,
    'dataset_name': dataset_name,
    'num_classes': num_classes,
    'sparsity_fraction': sorted(sparsity_fraction),
    'pruning_method': pruning_method,
    'tie_rule': tie_rule,
    'num_resamples': num_resamples,
    'seed': seed,
  }
  path = paths.pie_null(output_path, dataset_name, mode, subdirectory)
  predicted = _digests(shards)
  record = provenance.Provenance(
    paths.modal_labels_folder(output_path, dataset_name, mode),
    _SCRIPT,
    {**settings, 'num_permutations': num_permutations},
    # The null of the whole is no sum of what jobs with one shard each wrote.
    {
      'predictions': predicted,
      'PIE null': {subdirectory or _WHOLE: digests.of_json(predicted)[:16]},
    },
  )
  if record.is_finished and storage.exists(path):
    done = csvs.read(tables.PIE_NULL, path)
    if all(
      storage.exists(
        paths.modal_labels(output_path, dataset_name, mode, shard, level)
      )
      for shard in shards
      for level in populations.by_level(done)
    ):
      logging.info('%s is there, made from the same predictions', path)
      return done
  if record.changed:
    more = '; ...' if record.changed[4:] else ''
    logging.info('made again: %s%s', '; '.join(record.changed[:4]), more)
  work: Callable[..., ShardCounts] = functools.partial(
    aggregate_shard,
    output_path=output_path,
    record=record,
    outdated=path,
    **settings,
  )
  total = add_up(_map(work, shards, num_cores), len(shards))
  null = pd.DataFrame(
    [
      _null_row(total, level, num_resamples, num_permutations, tie_rule, seed)
      for level in total.counts
    ]
  )
  null = null.reindex(columns=[c.name for c in tables.PIE_NULL.columns])
  csvs.write(tables.PIE_NULL, null, path)
  for row in null.to_dict('records'):
    logging.info('%s', _sentence(row))
  logging.info('wrote %s', path)
  # Not the files one by one: there may be 23,040.
  record.finish([], predictions={'files': sum(map(len, shards.values()))})
  return null


def _null_row(
  total: ShardCounts,
  level: populations.Level,
  num_resamples: int,
  num_permutations: int,
  tie_rule: str,
  seed: int,
) -> dict[str, object]:
  """A level's row of `tables.PIE_NULL`."""
  level_of = list(map(shard_predictions.level_of, total.members))
  dense, compressed = (
    [i for i, other in enumerate(level_of) if other == wanted]
    for wanted in (populations.DENSE, level)
  )
  both = dense + compressed
  return {
    **pie_resampling.summarise(
      level,
      len(dense),
      len(compressed),
      total.counts[level],
      num_resamples,
      tie_rule,
    ),
    **membership.verdict(
      total.agreement[np.ix_(both, both)], len(dense), num_permutations, seed
    ),
  }


def _digests(shards: Mapping[str, Sequence[str]]) -> dict[str, str]:
  """Of each shard's predictions, all that they hold, in any order."""
  files = [path for some in shards.values() for path in some]
  with concurrent.futures.ThreadPoolExecutor() as pool:
    digest = dict(zip(files, pool.map(digests.of_file, files), strict=True))
  return {
    shard: digests.of_json(sorted(digest[path] for path in some))[:16]
    for shard, some in shards.items()
  }


def _sentence(row: dict) -> str:
  def number(name):
    return 'n/a' if pd.isna(row[name]) else f'{row[name]:.1f}'

  return (
    f'{row["pruning_method"]} {row["pruning_fraction"]}: {row["pie_count"]} '
    f'PIEs of {row["total_images_count"]} images '
    f'[{number("pie_count_low")}, {number("pie_count_high")}]; between halves: '
    f'{number("null_mean")} by chance, {number("pruned_half_mean")} dense '
    f'against pruned; ties: {row["baseline_tied_count"]} dense, '
    f'{row["variant_tied_count"]} pruned, {row["pie_by_tie_rule_count"]} PIEs '
    f'and {row["non_pie_by_tie_rule_count"]} others hang on the rule '
    f'{row["tie_rule"]!r}; {_verdict(row)}. {row["not_available"]}'
  ).rstrip()


def _verdict(row: Mapping[str, Any]) -> str:
  """What the exact test says, and no more."""
  p, smallest = row['energy_pvalue'], row['energy_pvalue_smallest']
  if pd.isna(p):
    return 'no test of the populations: num_permutations is 0'
  if smallest > tables.SIGNIFICANCE:
    return (
      f'too few members to tell it from chance: p is {smallest:.2g} or more'
    )
  if p <= tables.SIGNIFICANCE:
    return f'it predicts otherwise than chance explains, p {p:.2g}'
  return f'no difference from the dense networks is shown, p {p:.2g}'


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(
    f, {'data_directory': 'predictions', 'output_path': 'results'}
  )
  run(
    f.data_directory,
    f.output_path,
    mode=f.mode,
    dataset_name=f.dataset_name or 'imagenet',
    subdirectory=f.subdirectory,
    num_classes=f.num_classes,
    sparsity_fraction=command_line.fractions(
      'sparsity_fraction', f.sparsity_fraction
    ),
    pruning_method=f.pruning_method,
    tie_rule=f.tie_rule,
    num_resamples=f.num_resamples,
    num_permutations=f.num_permutations,
    seed=f.seed,
    num_cores=f.num_cores,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
