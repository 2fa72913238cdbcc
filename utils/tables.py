"""Every CSV of the pipeline: columns, types, ranges, keys and row order.

The scripts meet in these tables, so each is spelled once, here, and checked
both when it is written and when it is read. Columns keep the original code's
names where it has one; ours come after them. A table that was written by hand
or by another framework is as good as ours when it passes `read`.

Missing, misspelled, out-of-range or duplicate content is a `ValueError` that
names the file, the column and the first rows at fault (1-based, the header
being line 1). Nothing here imports TensorFlow.

Text is never changed: what is written is what is read. So text that would harm
where a person opens the file is refused: control characters, line breaks among
them, and what a spreadsheet would take for a formula (`=1+1`, `@SUM(A1)`; not
`-` or `-1.jpg`). Keys of records meet this before they come here
(`tfrecords.key_text`), names of classes in `image_records`.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from etils import epath

from utils import paths

_MAX = np.finfo('float64').max
# Half a character (a surrogate) has no bytes in UTF-8.
_CONTROL = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')
# What a spreadsheet that opens a CSV would run, with any width of sign; a name
# such as '-', or a number, is none.
_FORMULA = re.compile(r'\s*([=\uff1d].|[+@\uff0b\uff20\uff0d-].*[(|!\[])')
_DTYPES = {'int': 'int64', 'float': 'float64', 'text': 'str'}


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of a table.

  Attributes:
    name: the header.
    kind: 'int', 'float' or 'text'.
    meaning: what the values say, with the unit.
    low: smallest value allowed.
    high: largest value allowed.
    nullable: whether cells may be empty.
    default: value for tables that lack the column; None makes it required.
  """

  name: str
  kind: str
  meaning: str
  low: float | None = None
  high: float | None = None
  nullable: bool = False
  default: object = None


@dataclasses.dataclass(frozen=True)
class Table:
  """A kind of CSV.

  Attributes:
    name: for messages.
    columns: in the order of the file.
    key: names of the columns that identify a row.
    sort_by: names of the columns that order the rows of a file; none where
      the writer's order counts.
  """

  name: str
  columns: tuple[Column, ...]
  key: tuple[str, ...]
  sort_by: tuple[str, ...]

  def column(self, name: str) -> Column:
    """The column of a name."""
    return next(column for column in self.columns if column.name == name)


def _fraction(name: str, meaning: str, **options) -> Column:
  return Column(name, 'float', meaning, low=0.0, high=1.0, **options)


def _count(name: str, meaning: str, **options) -> Column:
  return Column(name, 'int', meaning, low=0, **options)


# The identity of a member, in every row about one.
MEMBER = (
  Column('exp', 'text', 'experiment', default=''),
  Column('pruning_method', 'text', "'baseline' or how weights were pruned"),
  _fraction('fraction_pruned', 'share of weights that are zero'),
  _count('start_pruning_step', 'optimiser step of the first update', default=0),
  _count('end_pruning_step', 'optimiser step of the last update', default=0),
  _count('pruning_frequency', 'steps between mask updates', default=0),
  _count('global_step', 'optimiser steps of the checkpoint', default=0),
  _count('replicate', 'index of the independent training run'),
)
MEMBER_KEY = tuple(column.name for column in MEMBER)

PREDICTIONS = Table(
  'predictions',
  (
    _count('predictions', 'predicted class id'),
    _count('true_class', 'class id of the label'),
    _fraction(
      'predicted_probability', 'softmax probability of the predicted class'
    ),
    Column(
      'top_5_indices',
      'text',
      'class ids by falling probability, "[682 141 933]"',
      nullable=True,
      default='',
    ),
    Column('split', 'text', "'train' or 'eval'", default=''),
    Column('filename', 'text', 'shard that holds the image', default=''),
    *MEMBER,
    Column('image_key', 'text', "the image's identity"),
    _count('image_index', "the record's position in its shard, from 0"),
    Column(
      'cross_entropy',
      'float',
      'loss of the image with label smoothing, in nats',
      low=0.0,
      nullable=True,
      default=np.nan,
    ),
    Column('preprocessing', 'text', 'name and version', default=''),
    Column('precision', 'text', "'float32' or 'bfloat16'", default=''),
  ),
  key=(*MEMBER_KEY, 'image_key'),
  sort_by=('image_index',),
)

MODAL_LABELS = Table(
  'modal labels',
  (
    _fraction('pruning_fraction', 'level of the pruned population'),
    _count('image_index', "the record's position in its shard, from 0"),
    _count('true_class_label', 'class id of the label'),
    _count('variant_modal_label', 'most frequent prediction, pruned'),
    _count('variant_number_observ', 'number of pruned members'),
    _count('baseline_modal_label', 'most frequent prediction, dense'),
    _count('baseline_number_observ', 'number of dense members'),
    Column('pruning_method', 'text', 'how the pruned population was pruned'),
    Column('filename', 'text', 'shard that holds the image'),
    Column('image_key', 'text', "the image's identity"),
    _fraction('baseline_vote_share', 'share of dense members that agree'),
    _fraction('variant_vote_share', 'share of pruned members that agree'),
    _fraction(
      'baseline_mean_probability',
      'mean of predicted_probability over dense members',
    ),
    _fraction(
      'variant_mean_probability',
      'mean of predicted_probability over pruned members',
    ),
    _count('baseline_tied', '1 if another label has as many votes', high=1),
    _count('variant_tied', '1 if another label has as many votes', high=1),
    _count(
      'taxicab_distance',
      'sum over labels of |dense votes - pruned votes| (arXiv 2010.03058)',
    ),
    _fraction(
      'baseline_correct_share', 'share of dense members that are right'
    ),
    _fraction(
      'variant_correct_share', 'share of pruned members that are right'
    ),
  ),
  key=('pruning_method', 'pruning_fraction', 'image_key'),
  sort_by=('image_index',),
)


def is_pie(labels: pd.DataFrame) -> pd.Series:
  """Which rows of `MODAL_LABELS` are PIEs: the populations differ [rows]."""
  return labels['baseline_modal_label'] != labels['variant_modal_label']


PIE_NULL = Table(
  'PIE null',
  (
    Column('pruning_method', 'text', 'how the pruned population was pruned'),
    _fraction('pruning_fraction', 'level of the pruned population'),
    _count('total_images_count', 'images'),
    _count('baseline_number_observ', 'number of dense members'),
    _count('variant_number_observ', 'number of pruned members'),
    _count('pie_count', 'images whose modal labels differ'),
    Column(
      'pie_count_low',
      'float',
      'lower end of the 95 % interval of pie_count, by resampling members',
      low=0.0,
      nullable=True,
    ),
    Column(
      'pie_count_high',
      'float',
      'upper end of that interval',
      low=0.0,
      nullable=True,
    ),
    _count(
      'half_number_observ',
      'members in each half of the null',
      nullable=True,
    ),
    Column(
      'null_mean',
      'float',
      'mean number of PIEs between two random dense halves',
      low=0.0,
      nullable=True,
    ),
    Column(
      'null_low',
      'float',
      '2.5th percentile of that number over random halves',
      low=0.0,
      nullable=True,
    ),
    Column(
      'null_high',
      'float',
      '97.5th percentile of that number over random halves',
      low=0.0,
      nullable=True,
    ),
    Column(
      'pruned_half_mean',
      'float',
      'mean number of PIEs between a dense half and as many pruned members',
      low=0.0,
      nullable=True,
    ),
    Column(
      'pruned_half_low',
      'float',
      '2.5th percentile of that number over random halves',
      low=0.0,
      nullable=True,
    ),
    Column(
      'pruned_half_high',
      'float',
      '97.5th percentile of that number over random halves',
      low=0.0,
      nullable=True,
    ),
    Column('tie_rule', 'text', 'which of several labels with as many votes'),
    _count('baseline_tied_count', 'images with a tied dense modal label'),
    _count('variant_tied_count', 'images with a tied pruned modal label'),
    _count(
      'pie_by_tie_rule_count', 'PIEs that another choice among ties would undo'
    ),
    _count(
      'non_pie_by_tie_rule_count',
      'other images that another choice among ties would make PIEs',
    ),
    Column('not_available', 'text', 'why cells are empty', default=''),
  ),
  key=('pruning_method', 'pruning_fraction'),
  sort_by=('pruning_method', 'pruning_fraction'),
)

HEADLINE = Table(
  'headline',
  (
    Column('measure', 'text', 'what was measured'),
    Column('pruning_method', 'text', "'baseline' or how weights were pruned"),
    _fraction('pruning_fraction', 'level of the population'),
    Column('value', 'float', 'count, mean number or fraction', nullable=True),
    Column('low', 'float', 'lower end of its 95 % interval', nullable=True),
    Column('high', 'float', 'upper end of its 95 % interval', nullable=True),
    Column('not_available', 'text', 'why there is no value', default=''),
  ),
  key=('measure', 'pruning_method', 'pruning_fraction'),
  # In the order of the printed table.
  sort_by=(),
)

SUSPECTS = Table(
  'suspects',
  (
    Column('rank', 'int', '1 for the label to look at first', low=1),
    Column('image_key', 'text', "the image's identity"),
    Column('filename', 'text', 'shard that holds the image'),
    _count('image_index', "the record's position in its shard, from 0"),
    _count('true_class_label', 'class id of the label'),
    Column('class', 'text', 'name of that class', default=''),
    _count(
      'suggested_label',
      'class id that most populations predict instead; empty if none does',
      nullable=True,
    ),
    Column('suggested_class', 'text', 'name of that class', default=''),
    _fraction(
      'suggested_share',
      'votes for it where it is the modal label, mean over populations',
    ),
    _fraction(
      'correct_share',
      'share of members that agree with the label, mean over populations',
    ),
    _count('pie_levels', 'levels at which the image is a PIE'),
    _fraction(
      'taxicab_share',
      'taxicab_distance over the number of votes, mean over levels',
    ),
  ),
  key=('image_key',),
  sort_by=('rank',),
)

# What annotators are asked about an image, each yes or no.
QUESTIONS = (
  Column('label_wrong', 'int', 'the label is wrong or inadequate', 0, 1),
  Column('several_objects', 'int', 'several objects could be meant', 0, 1),
  Column('cooccurring_labels', 'int', 'labels that often occur together', 0, 1),
  Column('atypical', 'int', 'an unusual example of its class', 0, 1),
  Column('fine_grained', 'int', 'a class very like another one', 0, 1),
  Column('abstract', 'int', 'drawn, abstract, distorted, poor quality', 0, 1),
)

ANNOTATIONS = Table(
  'annotations',
  (
    Column('annotator', 'text', 'who answered'),
    Column('image_key', 'text', "the image's identity"),
    Column('pruning_method', 'text', 'method of the level that was studied'),
    _fraction('pruning_fraction', 'that level'),
    _count('is_blind', '1 if it was not told which images are PIEs', high=1),
    *QUESTIONS,
  ),
  key=('annotator', 'image_key', 'pruning_method', 'pruning_fraction'),
  sort_by=('annotator', 'pruning_method', 'pruning_fraction', 'image_key'),
)

ANNOTATION_SUMMARY = Table(
  'annotation summary',
  (
    Column('pruning_method', 'text', 'method of the level that was studied'),
    _fraction('pruning_fraction', 'that level'),
    Column('images', 'text', "'PIEs' or 'others'"),
    Column('question', 'text', 'column of the annotations, or several'),
    _count('num_images', 'images that were looked at'),
    _count('num_annotators', 'people who looked at any of them'),
    _count('num_answers', 'answers'),
    _count('num_blind', 'answers of people who were not told'),
    _fraction('share', "mean over images of the annotators' share of yes"),
    _fraction('share_low', 'lower end of its 95 % interval, over images'),
    _fraction('share_high', 'upper end of that interval'),
    _count('num_shared', 'images with two or more answers'),
    _fraction(
      'agreement',
      'share of pairs of answers to one image that are equal',
      nullable=True,
    ),
    Column(
      'krippendorff_alpha',
      'float',
      'agreement above chance: 1 is perfect, 0 is chance; empty where no '
      'image has two answers, or all answers are equal',
      high=1.0,
      nullable=True,
    ),
  ),
  key=('pruning_method', 'pruning_fraction', 'images', 'question'),
  # In the order of the questions.
  sort_by=(),
)

PIE_STATISTICS = Table(
  'PIE statistics',
  (
    Column('file', 'text', 'shard'),
    _count('pie_count', 'images whose modal labels differ'),
    _count(
      'pruned_correct_count', 'PIEs that the pruned modal label has right'
    ),
    _count('total_images_count', 'images in the shard'),
    _fraction('sparsity', 'level of the pruned population'),
    Column('mode', 'text', "'train' or 'eval'"),
    Column('pruning_method', 'text', 'how the pruned population was pruned'),
    _count(
      'baseline_correct_count', 'PIEs that the dense modal label has right'
    ),
    Column(
      'modal_labels_sha256', 'text', 'checksum of the modal labels', default=''
    ),
  ),
  key=('file', 'pruning_method', 'sparsity', 'mode'),
  sort_by=('file', 'pruning_method', 'sparsity'),
)

CLASS_METRICS = Table(
  'class metrics',
  (
    _count('class_id', 'class id, from 0'),
    Column('class', 'text', 'name of the class'),
    _count('support', 'images of the class'),
    _count(
      'predicted_count',
      'images predicted to be of the class; empty for a group of images',
      nullable=True,
    ),
    _count('correct_count', 'images of the class that are predicted so'),
    _fraction('recall', 'correct_count / support', nullable=True),
    _fraction('precision', 'correct_count / predicted_count', nullable=True),
    _fraction('eval_accuracy', "top-1 over all images, the member's"),
    _fraction(
      'top_5_eval_accuracy',
      "top-5 over all images, the member's",
      nullable=True,
    ),
    Column(
      'loss',
      'float',
      'mean cross entropy with label smoothing, in nats, without weight decay',
      low=0.0,
      nullable=True,
    ),
    *MEMBER,
    Column('split', 'text', "'train' or 'eval'", default=''),
    Column(
      'ckpt', 'text', "path of the checkpoint from the study's root", default=''
    ),
    Column('preprocessing', 'text', 'name and version', default=''),
    # 'precision' is that of the class.
    Column('compute_precision', 'text', "'float32', 'bfloat16'", default=''),
  ),
  key=(*MEMBER_KEY, 'class_id'),
  sort_by=('class_id',),
)

GROUPS = Table(
  'groups',
  (
    Column('group', 'text', 'name of the group'),
    _count('class_id', 'a class of the group', nullable=True, default=np.nan),
    Column('class', 'text', 'a class of the group, by name', default=''),
    Column('image_key', 'text', 'an image of the group', default=''),
  ),
  key=('group', 'class_id', 'class', 'image_key'),
  sort_by=('group', 'class_id', 'class', 'image_key'),
)

# A class whose pvalue_recall_norm is at or below this is significant.
SIGNIFICANCE = 0.05


def _number(name: str, meaning: str) -> Column:
  return Column(name, 'float', meaning, nullable=True)


_LEVEL = (
  Column('pruning_method', 'text', 'how the pruned models were pruned'),
  _fraction('pruning_fraction', 'level of the pruned population'),
)

T_STATISTIC = Table(
  't-tests of classes',
  (
    Column('class', 'text', 'name of the class'),
    _LEVEL[1],
    _fraction('baseline_mean_recall', 'mean over dense models', nullable=True),
    _fraction('variant_mean_recall', 'mean over pruned models', nullable=True),
    _fraction(
      'pvalue_recall_norm',
      'of the two-sided Welch test of normalised recall, uncorrected',
      nullable=True,
    ),
    _number(
      'statistic_recall_norm',
      'Welch t, dense minus pruned: positive if the class lost more than the '
      'model as a whole; empty with a reason',
    ),
    _count('class_id', 'class id, from 0'),
    _LEVEL[0],
    _count('support', 'images of the class', nullable=True),
    _number('recall_change', 'pruned minus dense mean recall'),
    _number('recall_change_low', 'lower end of its 95 % interval'),
    _number('recall_change_high', 'upper end of its 95 % interval'),
    _number(
      'normalised_recall_change',
      'recall_change minus the change of the accuracy of the whole',
    ),
    _number('normalised_recall_change_low', 'lower end of its 95 % interval'),
    _number('normalised_recall_change_high', 'upper end of its 95 % interval'),
    _number(
      'effect_size',
      'normalised_recall_change over the root of the mean of both variances',
    ),
    _fraction(
      'qvalue_recall_norm',
      'Benjamini-Hochberg, over the classes of the level',
      nullable=True,
    ),
    Column(
      'direction', 'text', "'lower' or 'higher', sign of the normalised change"
    ),
    Column('reason', 'text', 'why there is no statistic; empty if there is'),
  ),
  key=('pruning_method', 'pruning_fraction', 'class_id'),
  sort_by=('class_id', 'pruning_method', 'pruning_fraction'),
)

CLASS_IMPACT_SUMMARY = Table(
  'class impact',
  (
    *_LEVEL,
    Column('normalisation', 'text', 'what was subtracted from recall'),
    _count('baseline_models', 'number of dense models'),
    _count('variant_models', 'number of pruned models'),
    _fraction('baseline_accuracy', 'mean that was subtracted, dense'),
    _fraction('variant_accuracy', 'mean that was subtracted, pruned'),
    _count('classes', 'number of classes'),
    _count('tested', 'classes that have a statistic'),
    _count('lower', 'classes significantly lower, uncorrected'),
    _count('higher', 'classes significantly higher, uncorrected'),
    _count('lower_corrected', 'of these, with a q-value as low'),
    _count('higher_corrected', 'of these, with a q-value as low'),
    _number('expected_by_chance', 'tested times the level of significance'),
    _count(
      'half_models', 'models a side in the next six columns', nullable=True
    ),
    _number('null_mean', 'significant classes, dense against dense halves'),
    _number('null_low', '2.5th percentile over the random halves'),
    _number('null_high', '97.5th percentile over the random halves'),
    _number('half_mean', 'significant classes, dense against pruned halves'),
    _number('half_low', '2.5th percentile over the random halves'),
    _number('half_high', '97.5th percentile over the random halves'),
    _number('lower_mean_recall_change', 'mean over the lower classes'),
    _number('lower_mean_normalised_change', 'mean over the lower classes'),
    _number('higher_mean_recall_change', 'mean over the higher classes'),
    _number('higher_mean_normalised_change', 'mean over the higher classes'),
    Column('worst_class', 'text', 'class of the lowest recall, pruned'),
    _fraction('worst_recall', 'its variant_mean_recall', nullable=True),
    _fraction(
      'worst_to_best', 'worst_recall over the best, pruned', nullable=True
    ),
    _fraction(
      'baseline_worst_to_best', 'lowest over best recall, dense', nullable=True
    ),
  ),
  key=('pruning_method', 'pruning_fraction'),
  sort_by=('pruning_method', 'pruning_fraction'),
)


ROBUSTNESS = Table(
  'robustness',
  (
    *CLASS_METRICS.columns,
    Column('dataset_name', 'text', 'what was measured'),
    Column('corruption', 'text', "ImageNet-C's name, or empty"),
    _count('corruption_intensity', 'severity 1 to 5; 0 for none', high=5),
    _count('num_images', 'images in the set'),
  ),
  key=(
    'dataset_name',
    'corruption',
    'corruption_intensity',
    *MEMBER_KEY,
    'class_id',
  ),
  sort_by=('class_id',),
)


def _interval(name: str) -> tuple[Column, Column]:
  return tuple(
    Column(
      f'{name}_{end}', 'float', 'its 95 % interval', None, None, True, np.nan
    )
    for end in ('low', 'high')
  )


ROBUSTNESS_SUMMARY = Table(
  'robustness summary',
  (
    Column('dataset_name', 'text', 'what was measured'),
    Column('pruning_method', 'text', "'baseline' or how weights were pruned"),
    _fraction('fraction_pruned', 'level of the population'),
    Column('corruption', 'text', "ImageNet-C's name, or 'all' for their mean"),
    _count('corruption_intensity', 'severity 1 to 5; 0 for their mean', high=5),
    _count('num_models', 'members of the population'),
    _fraction('mean_accuracy', 'top-1, mean over members (and sets)'),
    _fraction('mean_accuracy_low', 'its 95 % interval', nullable=True),
    _fraction('mean_accuracy_high', 'its 95 % interval', nullable=True),
    _fraction('mean_top_5_accuracy', 'top-5, likewise', nullable=True),
    Column(
      'relative_error',
      'float',
      "error (1 - mean_accuracy) / the dense population's",
      low=0.0,
      nullable=True,
    ),
    *_interval('relative_error'),
    Column(
      'accuracy_loss',
      'float',
      "the dense population's mean_accuracy - this level's",
    ),
    Column(
      'clean_accuracy_loss',
      'float',
      'the same on clean images',
      nullable=True,
    ),
    Column(
      'relative_accuracy_loss',
      'float',
      'accuracy_loss / clean_accuracy_loss, where that is above 0',
      nullable=True,
      default=np.nan,
    ),
    *_interval('relative_accuracy_loss'),
    Column(
      'mean_corruption_error',
      'float',
      "mean over corruptions of error / AlexNet's, in rows of 'all'",
      low=0.0,
      nullable=True,
    ),
    *_interval('mean_corruption_error'),
    Column(
      'relative_mean_corruption_error',
      'float',
      "the same for the error above the clean one, / AlexNet's",
      nullable=True,
    ),
    *_interval('relative_mean_corruption_error'),
    _count('num_corruptions', 'corruptions behind the row'),
    _count(
      'is_partial',
      'beside a mean corruption error: 1 if corruptions or severities lack',
      high=1,
      nullable=True,
      default=np.nan,
    ),
  ),
  key=(
    'dataset_name',
    'pruning_method',
    'fraction_pruned',
    'corruption',
    'corruption_intensity',
  ),
  sort_by=(
    'dataset_name',
    'pruning_method',
    'fraction_pruned',
    'corruption',
    'corruption_intensity',
  ),
)


def check(table: Table, frame: pd.DataFrame, source: str) -> pd.DataFrame:
  """Checks a frame against a table, at the door.

  Args:
    table: what is wanted.
    frame: what was got; columns in any order, unknown ones are left out.
    source: file name or description, for the message.

  Returns:
    The table's columns that the frame has, in the table's order, typed.

  Raises:
    ValueError: names the source, the column and the first rows at fault.
  """
  checked = {}
  for column in table.columns:
    if column.name in frame:
      checked[column.name] = _check_column(column, frame[column.name], source)
  result = pd.DataFrame(checked, index=frame.index)
  key = _identity(table, result)
  if key:
    # Constant columns (the member, in a file of one member) tell no rows apart.
    varying = [name for name in key if not _is_constant(result[name])] or key[
      -1:
    ]
    repeated = result.duplicated(varying, keep=False)
    if repeated.any():
      first = result.loc[repeated, varying].head(4)
      raise ValueError(
        f'{source}: {int(repeated.sum())} rows of the table of {table.name} '
        f'share their identity {tuple(table.key)}, for example lines '
        f'{_lines(repeated)}: {first.to_dict("records")}'
      )
  return result


def _identity(table: Table, frame: pd.DataFrame) -> list[str]:
  """The key of a frame's rows, empty where what is left tells no rows apart."""
  missing = [name for name in table.key if name not in frame]
  if any(table.column(name).default is None for name in missing):
    return []
  return [name for name in table.key if name in frame]


def _is_constant(values: pd.Series) -> bool:
  # An array of text compares faster than a series of it, by identity first.
  cells = values.to_numpy()
  return len(cells) == 0 or bool((cells == cells[0]).all())


def _lines(at_fault: pd.Series) -> str:
  return ', '.join(str(i + 2) for i in np.flatnonzero(at_fault)[:5])


def _check_column(column: Column, values: pd.Series, source: str) -> pd.Series:
  def refuse(at_fault, wanted):
    got = values[at_fault].tolist()[0]
    raise ValueError(
      f'{source}: column {column.name!r} holds {got!r} in line '
      f'{_lines(at_fault)}, wanted {wanted} ({column.meaning})'
    )

  if column.kind == 'text':
    empty = values.isna()
    text = values if values.dtype == 'str' else values.astype('str')
    return text.where(~empty, '') if empty.any() else text
  whole = column.kind == 'int'
  if len(values) and values.dtype.kind in ('iu' if whole else 'iuf'):
    # Nearly every column is as it should be, which two numbers show; NaN and
    # infinity are within no bounds.
    low, high = values.to_numpy().min(), values.to_numpy().max()
    above = -_MAX if column.low is None else column.low
    below = _MAX if column.high is None else column.high
    if above <= low and high <= below:
      dtype = 'int64' if whole else 'float64'
      return values if values.dtype == dtype else values.astype(dtype)
  empty = values.isna()
  numbers = pd.to_numeric(values, errors='coerce')
  unreadable = numbers.isna() & ~empty
  if unreadable.any():
    refuse(unreadable, 'a number')
  if empty.any() and not column.nullable:
    refuse(empty, 'a number, not an empty cell')
  infinite = np.isinf(numbers.astype('float64'))
  if infinite.any():
    refuse(infinite, 'a finite number')
  if column.low is not None and (numbers < column.low).any():
    refuse(numbers < column.low, f'at least {column.low}')
  if column.high is not None and (numbers > column.high).any():
    refuse(numbers > column.high, f'at most {column.high}')
  if column.kind == 'int':
    broken = (numbers % 1).fillna(0) != 0
    if broken.any():
      refuse(broken, 'a whole number')
    return numbers.astype('Int64' if empty.any() else 'int64')
  return numbers.astype('float64')


def fault_of_text(text: str) -> str:
  """Why a text may not stand in a cell; '' if it may."""
  formula = 'what a spreadsheet would take for a formula'
  return _control_of(text) or (formula if _FORMULA.match(text) else '')


def _control_of(text: str) -> str:
  found = _CONTROL.search(text)
  return 'a control character, such as a line break' if found else ''


def _check_texts(
  table: Table, frame: pd.DataFrame, source: str, fault_of: Callable[[str], str]
) -> None:
  for column in table.columns:
    if column.kind != 'text' or column.name not in frame:
      continue
    for text in frame[column.name].unique():
      if fault := fault_of(text):
        raise ValueError(
          f'{source}: column {column.name!r} holds {text!r}, which is or holds '
          f'{fault}'
        )


def empty(table: Table) -> pd.DataFrame:
  """A frame of the table's columns and types without a row."""
  return pd.DataFrame(
    {c.name: pd.Series(dtype=_DTYPES[c.kind]) for c in table.columns}
  )


def write(table: Table, frame: pd.DataFrame, path: str) -> None:
  """Checks, sorts and writes a table; the file appears complete or not at all.

  Equal frames give equal bytes: floats are written as the shortest decimal
  that reads back to the same value, lines end in one newline.

  Raises:
    ValueError: the frame does not pass `check`, lacks a column that has no
      default, or holds a text of which `fault_of_text` complains.
  """
  absent = [c for c in table.columns if c.name not in frame]
  frame = frame.assign(**{c.name: c.default for c in absent})
  missing = [c.name for c in absent if c.default is None]
  if missing:
    raise ValueError(f'{path}: the frame lacks the columns {missing}')
  frame = check(table, frame, path)
  _check_texts(table, frame, path, fault_of_text)
  if table.sort_by:
    frame = frame.sort_values(list(table.sort_by), kind='stable')
  paths.write_complete(path, frame.to_csv(index=False, lineterminator='\n'))


def read(
  table: Table, path: str, columns: Sequence[str] | None = None
) -> pd.DataFrame:
  """Reads and checks a table.

  Args:
    table: what is wanted.
    path: the CSV.
    columns: names of the columns to read, or None for all of the table. A
      column with a default is filled in where the file lacks it.

  Raises:
    ValueError: the file is no such table; names file, column and line.
  """
  return _parse(table, epath.Path(path).read_bytes(), path, columns)


def _parse(table, text, path, columns) -> pd.DataFrame:
  wanted = [
    column
    for column in table.columns
    if columns is None or column.name in columns
  ]
  if b'\0' in text:
    raise ValueError(f'{path} is not a CSV: it holds a NUL')
  try:
    header = _header(text)
  except (UnicodeDecodeError, csv.Error) as error:
    raise ValueError(f'{path} is not a CSV: {error}') from None
  missing = [c.name for c in wanted if c.name not in header]
  required = [name for name in missing if table.column(name).default is None]
  if required:
    raise ValueError(
      f'{path} is not a table of {table.name}: it lacks the columns '
      f'{required}, it has {header}'
    )
  names = [c.name for c in wanted if c.name in header]
  if not text.endswith(b'\n'):
    # Half of a number is a number, half of a name a name.
    raise ValueError(
      f'{path} does not end in a line break: it is cut short (or add one)'
    )
  twice = [name for name in names if header.count(name) > 1]
  if twice:
    raise ValueError(f'{path} has the columns {twice} more than once')
  # Only empty cells are missing values: a class may be called "None" or "NA".
  options = {
    'usecols': names,
    'index_col': False,
    'keep_default_na': False,
    'na_values': {
      c.name: ['', 'nan', 'NaN'] for c in wanted if c.kind != 'text'
    },
    'encoding': 'utf-8',
  }
  try:
    try:
      with np.errstate(invalid='ignore'):
        frame = pd.read_csv(
          io.BytesIO(text),
          dtype={
            c.name: 'float64'
            if c.nullable and c.kind == 'int'
            else _DTYPES[c.kind]
            for c in wanted
            if c.name in names
          },
          **options,
        )
    except (ValueError, OverflowError):
      # Slower, without types, so that the check can name the cell at fault.
      frame = pd.read_csv(io.BytesIO(text), dtype='object', **options)
  except (ValueError, UnicodeDecodeError) as error:
    raise ValueError(f'{path} is not a CSV: {error}') from None
  for column in wanted:
    if column.name not in header:
      frame[column.name] = column.default
  frame = check(table, frame, path)
  if b'"' in text:
    # Only between quotes may a cell hold a line break.
    _check_texts(table, frame, path, _control_of)
  return frame


def _header(text: bytes) -> list[str]:
  """The names in the first line, without the price of a reader of tables."""
  line = text[: text.find(b'\n') + 1] or text
  return next(csv.reader([line.decode('utf-8-sig')]), [])


def read_stacked(
  table: Table, files: Iterable[str], columns: Sequence[str] | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
  """Reads several files of one table, as `read` reads each, into one frame.

  Many small files of one layout are parsed as one text, since opening a parser
  costs more than the few hundred rows of a shard. All of them are in memory at
  once.

  Returns:
    The rows, file after file, and [files] the row at which each file ends.

  Raises:
    ValueError: as `read`, for the first file that is no such table.
  """
  files = list(files)
  texts = [epath.Path(path).read_bytes() for path in files]
  starts = [text.find(b'\n') + 1 for text in texts]
  layouts = {text[:start] for text, start in zip(texts, starts, strict=True)}
  # A quote that is not closed would swallow the next file.
  plain = all(b'"' not in text and text.endswith(b'\n') for text in texts)
  if plain and len(files) > 1 and len(layouts) == 1:
    bodies = [text[start:] for text, start in zip(texts, starts, strict=True)]
    ends = np.cumsum([body.count(b'\n') for body in bodies])
    try:
      together = _parse(table, b''.join([*layouts, *bodies]), '', columns)
    except ValueError:
      # Some file is at fault, or rows of two share their identity.
      together = None
    if together is not None and len(together) == ends[-1]:
      return together, ends
  frames = [
    _parse(table, text, path, columns)
    for path, text in zip(files, texts, strict=True)
  ]
  together = pd.concat(frames, ignore_index=True)
  return together, np.cumsum([len(frame) for frame in frames])


def read_all(
  table: Table, files: Iterable[str], columns: Sequence[str] | None = None
) -> pd.DataFrame:
  """Reads several files of one table and checks identities across them.

  Raises:
    ValueError: as `read`, or a row stands in two files.
  """
  files = list(files)
  together, ends = read_stacked(table, files, columns)
  key = _identity(table, together)
  repeated = together.duplicated(key, keep=False) if key else np.array([False])
  if repeated.any():
    source = np.repeat(files, np.diff([0, *ends]))
    first = together.loc[repeated, key].iloc[0]
    same = repeated & (together[key] == first).all(axis=1)
    raise ValueError(
      f'{int(repeated.sum())} rows of {table.name} stand more than once, for '
      f'example {first.to_dict()} in {sorted(set(source[same]))}'
    )
  return together


def check_one_study(rows: pd.DataFrame, mode: str, source: str) -> None:
  """Refuses class metrics that cannot be compared with one another.

  Args:
    rows: of `CLASS_METRICS`, with `exp`, `split`, `preprocessing` and
      `compute_precision`.
    mode: the split that is wanted; rows that name none are taken to be of it.
    source: file name, for the message.

  Raises:
    ValueError: rows are of another split, of several experiments, or were
      measured in different ways.
  """
  for name in ('split', 'exp', 'preprocessing', 'compute_precision'):
    wanted = mode if name == 'split' else None
    found = set(rows[name].unique())
    if wanted:
      found -= {'', wanted}
    if len(found) > (0 if wanted else 1):
      raise ValueError(
        f'{source} and the like hold the {name} {sorted(found)}, wanted '
        f'{wanted or "one study"}: name a folder that holds no other'
      )
