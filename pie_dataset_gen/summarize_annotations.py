r"""Summarises what people said of PIEs and of other images.

Reads
  --annotations        CSVs that the page of pie_dataset_gen.gallery exported,
                       of one or many annotators (utils/tables.py: ANNOTATIONS)
  --results_directory  with the modal labels of aggregate_predictions, which say
                       what is a PIE

and writes <results_directory>/<dataset_name>/<mode>_annotation_summary.csv
(utils/tables.py: ANNOTATION_SUMMARY): for each level that was studied and each
question the share of yes, among the PIEs and among the others, with a 95 %
interval over images, and how far annotators agree.

  python -m pie_dataset_gen.summarize_annotations --study=runs/digits \
      --annotations='downloads/annotations-*.csv'

An annotator who answered twice about an image at one level is an error, since
one of the two answers would count for nothing.
"""

import math

import numpy as np
import pandas as pd
from absl import flags, logging
from etils import epath

from utils import command_line, csvs, paths, populations, provenance, tables

_LEVEL = ['pruning_method', 'pruning_fraction']
_QUESTIONS = [column.name for column in tables.QUESTIONS]
# What the study of the paper's authors reports in one number.
_EITHER = 'label_wrong or several_objects'
PIES, OTHERS = 'PIEs', 'others'


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'annotations',
    None,
    'CSVs of annotations: a folder, path, pattern or list.',
    required=True,
  )
  flags.DEFINE_string(
    'results_directory',
    '',
    'Folder of the results: modal labels are read there, and this goes there.',
  )
  flags.DEFINE_enum('mode', 'eval', ['eval', 'train'], 'Split of the images.')
  flags.DEFINE_string(
    'dataset_name',
    '',
    'Name of the data set, a folder of the results. Empty: that of --study, or '
    "'imagenet'.",
  )


def wilson_interval(share: float, number: int) -> tuple[float, float]:
  """The 95 % interval of a share (Wilson 1927).

  Exact in its assumption for yes or no; for means of several answers to an
  image, which vary less, it is wider than it need be.

  Args:
    share: in [0, 1].
    number: of images.
  """
  z2 = 1.959964**2
  centre = share + z2 / (2 * number)
  spread = math.sqrt(z2 * (share * (1 - share) / number + z2 / 4 / number**2))
  low, high = ((centre + sign * spread) / (1 + z2 / number) for sign in (-1, 1))
  return max(0.0, low), min(1.0, high)


def agree(yes: np.ndarray, answers: np.ndarray) -> tuple[float, float]:
  """How far annotators agree about images, answers being yes or no.

  Args:
    yes: [images] number of yes.
    answers: [images] number of answers.

  Returns:
    The share of pairs of answers to one image that are equal, and
    Krippendorff's alpha, 1 - observed / expected disagreement ("Content
    Analysis", 1980); NaN where there is no pair, or all answers are equal.
  """
  shared = answers >= 2
  yes, answers = yes[shared].astype(float), answers[shared].astype(float)
  no = answers - yes
  total = answers.sum()
  if not total:
    return math.nan, math.nan
  pairs = answers * (answers - 1)
  agreement = 1 - 2 * (yes * no).sum() / pairs.sum()
  observed = (2 * yes * no / (answers - 1)).sum() / total
  expected = 2 * yes.sum() * no.sum() / (total * (total - 1))
  alpha = 1 - observed / expected if expected else math.nan
  return agreement, alpha


def summarise(annotations: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
  """Shares of yes, and agreement.

  Args:
    annotations: rows of `tables.ANNOTATIONS`.
    labels: rows of `tables.MODAL_LABELS` at all levels.

  Returns:
    Rows of `tables.ANNOTATION_SUMMARY`.

  Raises:
    ValueError: an annotated image or level has no modal labels.
  """
  key = [*_LEVEL, 'image_key']
  joined = annotations.merge(
    labels[key].assign(
      images=np.where(populations.is_pie(labels), PIES, OTHERS)
    ),
    how='left',
    on=key,
  )
  unknown = joined['images'].isna()
  if unknown.any():
    raise ValueError(
      f'{unknown.sum()} annotations are of images or levels without modal '
      f'labels, for example {joined.loc[unknown, key].iloc[0].to_dict()}'
    )
  joined[_EITHER] = joined[['label_wrong', 'several_objects']].max(axis=1)
  rows = []
  # PIEs before the others.
  for (method, fraction, images), of in sorted(
    joined.groupby([*_LEVEL, 'images']), key=lambda item: item[0]
  ):
    for question in [*_QUESTIONS, _EITHER]:
      by_image = of.groupby('image_key')[question]
      yes, answers = by_image.sum(), by_image.size()
      share = (yes / answers).mean()
      low, high = wilson_interval(share, len(yes))
      agreement, alpha = agree(yes.to_numpy(), answers.to_numpy())
      rows.append(
        {
          'pruning_method': method,
          'pruning_fraction': fraction,
          'images': images,
          'question': question,
          'num_images': len(yes),
          'num_annotators': len(set(of['annotator'])),
          'num_answers': len(of),
          'num_blind': of['is_blind'].sum(),
          'share': share,
          'share_low': low,
          'share_high': high,
          'num_shared': (answers >= 2).sum(),
          'agreement': agreement,
          'krippendorff_alpha': alpha,
        }
      )
  return pd.DataFrame(rows)


def run(
  annotations: str,
  results_directory: str,
  *,
  mode: str,
  dataset_name: str,
) -> pd.DataFrame:
  """Writes the summary; returns its rows."""
  answered = csvs.find(tables.ANNOTATIONS, annotations)
  files = csvs.find(
    tables.MODAL_LABELS,
    paths.modal_labels_folder(results_directory, dataset_name, mode),
  )
  columns = (
    *_LEVEL,
    'image_key',
    'baseline_modal_label',
    'variant_modal_label',
  )
  summary = summarise(
    csvs.read_all(tables.ANNOTATIONS, answered),
    csvs.read_all(tables.MODAL_LABELS, files, columns),
  )
  path = paths.annotation_summary(results_directory, dataset_name, mode)
  csvs.write(tables.ANNOTATION_SUMMARY, summary, path)
  for row in summary.itertuples():
    logging.info(
      '%s %g, %s, %s: %.3f [%.3f, %.3f] of %d images',
      row.pruning_method,
      row.pruning_fraction,
      row.images,
      row.question,
      row.share,
      row.share_low,
      row.share_high,
      row.num_images,
    )
  logging.info('wrote %s', path)
  provenance.write(
    str(epath.Path(path).parent),
    'pie_dataset_gen.summarize_annotations',
    [*answered, *files],
  )
  return summary


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(f, {'results_directory': 'results'})
  run(
    f.annotations,
    f.results_directory,
    mode=f.mode,
    dataset_name=f.dataset_name or 'imagenet',
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
