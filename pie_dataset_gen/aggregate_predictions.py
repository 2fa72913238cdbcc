r"""Finds the most frequent prediction of each image, per level of sparsity.

Reads the predictions of all members (the CSVs of `imagenet_predictions`, or
any that have the required columns of `tables.PREDICTIONS`, or the original's:
`utils/prediction_files.py`), one folder for each shard of the data set, one
file for each member. Members of one
`pruning_method` and `fraction_pruned` are a level; the level ('baseline', 0)
is the dense population that every other is held against. Writes

  <output_path>/<dataset_name>/modal_labels/<mode>/<shard>/<method>_<level>.csv
    for each image the modal label of the dense and of the pruned population,
    how many members voted for it, and how far apart the votes are;
  <output_path>/<dataset_name>/<mode>_pie_null.csv
      for each level the number of images whose modal labels differ (PIEs), how
    many of them hang on the rule for ties, how many chance alone would give,
    whether the level predicts otherwise than chance explains, and how far the
    number moves when other members had been trained.

  python -m pie_dataset_gen.aggregate_predictions --study=runs/digits

takes seconds. Shards are independent and read --num_cores at a time, so memory
does not grow with the data set: 180 members x 50,000 images take about the time
in which pandas reads the files. No TensorFlow is needed. What is there, made
from the same predictions, is not made again; from others, it is; with other
settings (--tie_rule, say) it is refused, since what is made from it would mix.

What would chance give? Two populations of dense networks differ as well, since
training is random. If compression changed nothing, which members are called
dense is a matter of chance, so it is permuted, --num_permutations times, with
all members in both groups. From this come

  p-values of the level: energy_pvalue, which the verdict rests on (the squared
  distance of the votes, summed over images); taxicab_pvalue and pie_pvalue, of
  the distance of the votes and of the number of PIEs, find less;
  permuted_mean, the number of PIEs by chance, which compares with pie_count;
  for each image vote_pvalue (exact, not drawn: pie_dataset_gen/image_test.py)
  and vote_qvalue, corrected over the images.

Members that were each made from the dense one of their number (quantised, say;
the column made_from of the predictions says so) are pairs, of which the two
change places; is_paired says which levels are. Random
halves of the members give the interval of the PIE count, how often an image is
a PIE (pie_frequency), and accuracy on PIEs without the selection in it
(pie_dataset_gen/pie_resampling.py). Few members disagree more than many, so a
PIE count is comparable only between populations of one size.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import threadpoolctl
from absl import flags, logging
from etils import epath

from pie_dataset_gen import (
  image_test,
  pie_resampling,
  shard_predictions,
  verdicts,
  votes,
)
from utils import (
  command_line,
  csvs,
  digests,
  membership,
  paths,
  plausibility,
  populations,
  prediction_files,
  provenance,
  storage,
  tables,
  workers,
)

_SCRIPT = 'pie_dataset_gen.aggregate_predictions'
# Bounds the memory: images that are counted at once.
_BLOCK_IMAGES = 256
_WHOLE = 'all shards'


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'data_directory',
    '',
    'Folder of predictions: the --output_path of imagenet_predictions, or any '
    "folder or pattern of CSVs; a file's folder is named after its shard. Or "
    'several folders of different members, separated by commas; files that lie '
    'in these themselves are of one shard.',
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
    'Name of the one shard to aggregate; vote_qvalue, a correction over all '
    'images, then stays empty. Empty: all shards that are there.',
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
  flags.DEFINE_list(
    'paired_methods',
    [],
    'Methods whose members were made from the dense ones (quantised after '
    'training, say), the member of a replicate from the dense member of that '
    'replicate: then the two of a pair change places in the permutations. '
    'Needed only where predictions do not say so in the column made_from.',
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
    'Random halves of the members behind the interval of the PIE count, how '
    'often an image is a PIE, and accuracy on chance PIEs. 0: none of these.',
    lower_bound=0,
  )
  flags.DEFINE_integer(
    'num_permutations',
    999,
    'Permuted memberships behind the p-values of each level and the PIEs that '
    'chance gives; fewer where there are no more. 0: none of these; p-values '
    'of images need none.',
    lower_bound=0,
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the halves and permutations.')
  flags.DEFINE_integer(
    'num_cores',
    2,
    'Shards aggregated at once, each in a process and memory of its own; '
    'few rows use fewer.',
    lower_bound=1,
  )
  command_line.define_scheduler()


@dataclasses.dataclass(frozen=True)
class Settings:
  """What decides the results, beside the predictions: flags of their names."""

  mode: str
  dataset_name: str
  num_classes: int = 0
  sparsity_fraction: Sequence[float] = ()
  pruning_method: str = ''
  paired_methods: Sequence[str] = ()
  tie_rule: str = 'largest'
  num_resamples: int = 100
  num_permutations: int = 999
  seed: int = 0

  def __post_init__(self) -> None:
    """Raises ValueError for a number that means nothing."""
    if self.num_resamples < 0 or self.num_resamples == 1:
      raise ValueError(
        f'num_resamples is {self.num_resamples}, wanted 2 or more, or 0 for '
        'none'
      )
    membership.check_permutations(self.num_permutations)


class ShardCounts(NamedTuple):
  """What a shard adds to the counts of the data set.

  Attributes:
    shard: its name.
    members: [members] sorted.
    image_key: [images].
    sums: for each level sums over images by name; those of random groups of the
      members are arrays.
    pvalues: for each level how many images that can be significant have a
      p-value.
    agreement: [members, members] images on which two members agree.
    facts: what shows that predictions are not what they are taken for.
  """

  shard: str
  members: list[shard_predictions.Identity]
  image_key: np.ndarray
  sums: dict[populations.Level, Any]
  pvalues: dict[populations.Level, collections.Counter[float]]
  agreement: np.ndarray
  facts: plausibility.Facts


def count_shard(
  predictions: shard_predictions.Predictions,
  drawn: Mapping[populations.Level, pie_resampling.Draws],
  tie_rule: str,
) -> tuple[
  dict[populations.Level, pd.DataFrame],
  dict[populations.Level, dict[str, np.ndarray]],
]:
  """The modal labels of a shard, with what its images add to the sums.

  Args:
    predictions: what all members predicted.
    drawn: random groups of the members, for each level that is held against
      the baseline.
    tie_rule: one of `votes.TIE_RULES`.

  Returns:
    For each level the rows of `tables.MODAL_LABELS` but the shard's name, and
    the sums by name; those of random groups are arrays.
  """
  frames: dict[populations.Level, list[pd.DataFrame]] = {
    level: [] for level in drawn
  }
  sums: dict[populations.Level, Any] = {
    level: collections.Counter() for level in drawn
  }
  dense = predictions.columns_of(populations.DENSE)
  paired = {level for level, groups in drawn.items() if groups.paired}
  for start in range(0, len(predictions.image_key), _BLOCK_IMAGES):
    images = slice(start, start + _BLOCK_IMAGES)
    part = shard_predictions.part_of(predictions, images)
    for level, (frame, added) in votes.count_votes(
      part, list(drawn), tie_rule, paired
    ).items():
      columns, resampled = pie_resampling.count_pies(
        part, dense, part.columns_of(level), drawn[level], tie_rule
      )
      frames[level].append(frame.assign(**columns))
      for name, number in {**added, **resampled}.items():
        sums[level][name] = sums[level][name] + number
  joined = {
    level: pd.concat(parts, ignore_index=True)
    for level, parts in frames.items()
  }
  return joined, sums


def aggregate_shard(
  shard: str,
  files: Sequence[str],
  *,
  record: provenance.Provenance,
  outdated: Sequence[str],
  aside: str,
  settings: Settings,
) -> ShardCounts:
  """Finds the modal labels of one shard; returns what the null needs.

  Args:
    shard: its name.
    files: the predictions of all members.
    record: started before the first table appears.
    outdated: the nulls of former runs, removed before: where one lies, the
      modal labels beside it are complete.
    aside: folder that keeps them until `finish_shard`.
    settings: of the run.
  """
  predictions = shard_predictions.read_shard(
    files, settings.mode, settings.num_classes
  )
  populations.check_alike(member._asdict() for member in predictions.members)
  unknown = np.isnan(predictions.probability).any(axis=0)
  if settings.tie_rule == 'probability' and unknown.any():
    member = predictions.members[int(unknown.argmax())]
    raise ValueError(
      f'{shard}: the predictions of {member._asdict()} have no '
      "predicted_probability, which --tie_rule='probability' asks for"
    )
  drawn = draw_groups(predictions.members, settings)
  # The matrices are small: threads that share one cost more than they save.
  with threadpoolctl.threadpool_limits(1):
    frames, sums = count_shard(predictions, drawn, settings.tie_rule)
    agreement = populations.agreement(predictions.label)
  for path in outdated:
    epath.Path(path).unlink(missing_ok=True)
  record.start()
  for level, frame in frames.items():
    _put_aside(frame, _aside(aside, shard, level))
  return ShardCounts(
    shard,
    predictions.members,
    predictions.image_key,
    sums,
    {
      level: collections.Counter(
        frame['vote_pvalue'][frame['vote_qvalue'].notna()].tolist()
      )
      for level, frame in frames.items()
    },
    agreement,
    plausibility.count(
      list(map(shard_predictions.level_of, predictions.members)),
      predictions.image_key,
      predictions.true_class,
      predictions.label,
      predictions.probability,
    ),
  )


def draw_groups(
  members: Sequence[shard_predictions.Identity], settings: Settings
) -> dict[populations.Level, pie_resampling.Draws]:
  """Random groups of the members of each level that is compared.

  Raises:
    ValueError: there are no such levels, or pairs are incomplete.
  """
  sizes = collections.Counter(map(shard_predictions.level_of, members))
  levels = populations.compressed_levels(
    sizes, settings.sparsity_fraction, settings.pruning_method
  )
  paired = populations.paired_levels(
    [member._asdict() for member in members], levels, settings.paired_methods
  )
  return {
    level: pie_resampling.draw(
      sizes[populations.DENSE],
      sizes[level],
      settings.num_resamples,
      settings.num_permutations,
      settings.seed,
      level in paired,
    )
    for level in levels
  }


def _aside(aside: str, shard: str, level: populations.Level) -> str:
  """Where the modal labels of a shard lie until all q-values are known."""
  return storage.within(aside, f'{shard} {paths.level_name(level)}.npz')


def _put_aside(frame: pd.DataFrame, path: str) -> None:
  # Of plain numbers and text only, which are read as they are.
  is_number = pd.api.types.is_numeric_dtype
  columns = {
    name: of.to_numpy() if is_number(of) else of.to_numpy(str)
    for name, of in frame.items()
  }
  data = io.BytesIO()
  np.savez(data, **columns)
  storage.write_complete(path, data.getvalue())


def finish_shard(
  shard: str,
  *,
  output_path: str,
  aside: str,
  settings: Settings,
  qvalues: Mapping[populations.Level, Mapping[float, float]],
) -> dict[populations.Level, collections.Counter[str]]:
  """Writes the modal labels of one shard, with the q-values of its images.

  Args:
    shard: its name.
    output_path: folder of the results.
    aside: where `aggregate_shard` left them.
    settings: of the run.
    qvalues: for each level those of the p-values of all shards' images.

  Returns:
    For each level how many images, and PIEs, have a small one.
  """
  found = {}
  for level in qvalues:
    with np.load(_aside(aside, shard, level)) as columns:
      frame = pd.DataFrame(dict(columns))
    known = frame['vote_qvalue'].notna()
    qvalue = frame['vote_pvalue'].map(qvalues[level]).where(known)
    csvs.write(
      tables.MODAL_LABELS,
      frame.assign(filename=shard, vote_qvalue=qvalue),
      paths.modal_labels(
        output_path, settings.dataset_name, settings.mode, shard, level
      ),
    )
    solid = qvalue <= tables.SIGNIFICANCE
    found[level] = collections.Counter(
      moved_images_count=int(solid.sum()),
      solid_pie_count=int((solid & populations.is_pie(frame)).sum()),
    )
  return found


def add_up(results: Iterable[ShardCounts], number: int) -> ShardCounts:
  """Adds up the sums of all shards.

  Raises:
    ValueError: an image stands in two shards, or members differ.
  """
  total: Any = None
  same = shard_predictions.SameMembers()
  for done, result in enumerate(results, 1):
    same.check(result.shard, result.members, result.image_key)
    if total is None:
      total = result._replace(
        sums={level: collections.Counter() for level in result.sums},
        pvalues={level: collections.Counter() for level in result.sums},
        agreement=np.zeros_like(result.agreement),
      )
    else:
      total = total._replace(
        facts=plausibility.together(total.facts, result.facts)
      )
    total = total._replace(agreement=total.agreement + result.agreement)
    for level, sums in result.sums.items():
      total.pvalues[level].update(result.pvalues[level])
      for name, number_of in sums.items():
        total.sums[level][name] = total.sums[level][name] + number_of
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
  subdirectory: str = '',
  place: workers.Place = workers.HERE,
  **options: Any,
) -> pd.DataFrame:
  """Aggregates the predictions of all shards.

  Args:
    data_directory: predictions.
    output_path: folder of the results.
    subdirectory: the one shard to aggregate, or empty for all.
    place: where shards are aggregated.
    **options: fields of `Settings`.

  Returns:
    The rows of `tables.PIE_NULL`, which were written.

  Raises:
    FileNotFoundError: there are no predictions.
    ValueError: they are damaged, do not belong together, or the results that
      are there were made with other settings.
  """
  settings = Settings(**options)
  mode, dataset_name = settings.mode, settings.dataset_name
  shards = shard_predictions.find_shards(
    data_directory, dataset_name, mode, subdirectory
  )
  path = paths.pie_null(output_path, dataset_name, mode, subdirectory)
  predicted = _digests(shards)
  record = provenance.Provenance(
    paths.modal_labels_folder(output_path, dataset_name, mode),
    _SCRIPT,
    {
      **dataclasses.asdict(settings),
      'sparsity_fraction': sorted(settings.sparsity_fraction),
      'paired_methods': sorted(settings.paired_methods),
    },
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
  with (
    workers.mapper(place, prediction_files.processes_worth(shards)) as mapped,
    workers.scratch_folder(place, output_path) as aside,
  ):
    total = _aggregate(
      mapped, shards, output_path, aside, settings, record, subdirectory
    )
  null = pd.DataFrame(
    [
      _null_row(total, level, drawn, settings.tie_rule)
      for level, drawn in draw_groups(total.members, settings).items()
    ]
  )
  null = null.reindex(columns=[c.name for c in tables.PIE_NULL.columns])
  csvs.write(tables.PIE_NULL, null, path)
  for row in null.to_dict('records'):
    for verdict in verdicts.of_images(row):
      logging.info('%s', verdict.sentence)
  logging.info('wrote %s', path)
  # Not the files one by one: there may be 23,040.
  record.finish([], predictions={'files': sum(map(len, shards.values()))})
  return null


def _aggregate(
  mapped: Callable[..., Iterable],
  shards: Mapping[str, Sequence[str]],
  output_path: str,
  aside: str,
  settings: Settings,
  record: provenance.Provenance,
  subdirectory: str,
) -> ShardCounts:
  """Writes the modal labels of all shards; adds up their sums."""
  of_results = output_path, settings.dataset_name, settings.mode
  work: Callable[..., ShardCounts] = functools.partial(
    aggregate_shard,
    record=record,
    # Of all shards, too, where this is one of them.
    outdated=[
      paths.pie_null(*of_results, shard) for shard in (subdirectory, '')
    ],
    aside=aside,
    settings=settings,
  )
  total = add_up(mapped(work, shards, shards.values()), len(shards))
  plausibility.check(
    [
      plausibility.Member(
        shard_predictions.level_of(of), of._asdict()['replicate']
      )
      for of in total.members
    ],
    total.facts,
    total.agreement,
  )
  finish = functools.partial(
    finish_shard,
    output_path=output_path,
    aside=aside,
    settings=settings,
    qvalues={
      level: {} if subdirectory else image_test.qvalues(pvalues)
      for level, pvalues in total.pvalues.items()
    },
  )
  for found in mapped(finish, shards):
    for level, counts in found.items():
      if not subdirectory:
        total.sums[level].update(counts)
  return total


def _null_row(
  total: ShardCounts,
  level: populations.Level,
  drawn: pie_resampling.Draws,
  tie_rule: str,
) -> dict[str, object]:
  """A level's row of `tables.PIE_NULL`."""
  level_of = list(map(shard_predictions.level_of, total.members))
  dense, compressed = (
    [i for i, other in enumerate(level_of) if other == wanted]
    for wanted in (populations.DENSE, level)
  )
  both = dense + compressed
  sums = total.sums[level]
  return {
    'pruning_method': level.pruning_method,
    'pruning_fraction': level.fraction_pruned,
    'baseline_number_observ': len(dense),
    'variant_number_observ': len(compressed),
    'is_paired': int(drawn.paired),
    'tie_rule': tie_rule,
    'tested_images_count': sum(total.pvalues[level].values()),
    **{
      column.name: int(sums[column.name])
      for column in tables.PIE_NULL.columns
      if column.name in sums
    },
    **pie_resampling.summarise(
      sums,
      total.agreement[np.ix_(both, both)],
      len(dense),
      len(compressed),
      drawn,
    ),
  }


def _digests(shards: Mapping[str, Sequence[str]]) -> dict[str, str]:
  """Of each shard's predictions, all that they hold, in any order."""
  files = [path for some in shards.values() for path in some]
  with concurrent.futures.ThreadPoolExecutor() as pool:
    digest = dict(zip(files, pool.map(digests.of_file, files), strict=True))
  return {
    shard: shard_predictions.identity_of(digest[path] for path in some)
    for shard, some in shards.items()
  }


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
    paired_methods=f.paired_methods,
    tie_rule=f.tie_rule,
    num_resamples=f.num_resamples,
    num_permutations=f.num_permutations,
    seed=f.seed,
    place=workers.Place(f.num_cores, f.scheduler),
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
