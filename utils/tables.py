"""Every CSV of the pipeline: its columns, their ranges, its keys and row order.

The scripts meet in these tables, so each is spelled once, here, and checked
both when it is written and when it is read (`csvs`). Columns keep the original
code's names where it has one; ours come after them.
"""

import numpy as np

from utils.csvs import Column, Table

# What has a p- or q-value at or below this is significant.
SIGNIFICANCE = 0.05


def _fraction(name: str, meaning: str, **options) -> Column:
  return Column(name, 'float', meaning, low=0.0, high=1.0, **options)


def _count(name: str, meaning: str, **options) -> Column:
  return Column(name, 'int', meaning, low=0, **options)


def _amount(name: str, meaning: str) -> Column:
  return Column(name, 'float', meaning, low=0.0, nullable=True)


# The identity of a member, in every row about one.
MEMBER = (
  Column('exp', 'text', 'experiment', default=''),
  Column(
    'pruning_method', 'text', "'baseline' or how the members were compressed"
  ),
  _fraction('fraction_pruned', 'share of weights that are zero'),
  _count('start_pruning_step', 'optimiser step of the first update', default=0),
  _count('end_pruning_step', 'optimiser step of the last update', default=0),
  _count('pruning_frequency', 'steps between mask updates', default=0),
  _count('global_step', 'optimiser steps of the checkpoint', default=0),
  _count('replicate', 'index of the independent training run'),
)
MEMBER_KEY = tuple(column.name for column in MEMBER)
# Which members are pairs is read from it.
_MADE_FROM = Column(
  'made_from',
  'text',
  'path, from the root of the study, of the member that the member was made '
  'from (quantised, say); empty if it was trained',
  default='',
)

_IS_PAIRED = _count(
  'is_paired',
  '1 if each member was made from the dense one of its number',
  high=1,
  default=0,
)

# What a level is called, in rows about one.
_LEVEL = (
  Column('pruning_method', 'text', 'how models were compressed'),
  _fraction('pruning_fraction', 'level of the compressed population'),
)

MEMBER_FILES = Table(
  'files of networks',
  'a network that lies anywhere',
  'whoever has networks of other frameworks',
  'anywhere',
  (
    Column(
      'file',
      'text',
      'a `.keras` or `.tflite` file or the folder of a SavedModel, from the '
      "folder of this CSV if it is no absolute path; also a bundle's `.index`",
    ),
    *MEMBER,
    Column(
      'description',
      'text',
      'the JSON that says how pixels go in and what comes out, found as `file` '
      'is; empty where it has the name of the network and lies beside it',
      nullable=True,
      default='',
    ),
  ),
  key=MEMBER_KEY,
  sort_by=(),
)

PREDICTIONS = Table(
  'predictions',
  'an image, by one member',
  'pie_dataset_gen.imagenet_predictions',
  '<results>/<data set>/predictions_dataframe/<mode>/<shard>/'
  'predictions_dataframe_<member>.csv',
  (
    _count('predictions', 'predicted class id'),
    _count('true_class', 'class id of the label'),
    _fraction(
      'predicted_probability',
      'softmax probability of the predicted class; empty where only the class '
      'is known',
      nullable=True,
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
    _MADE_FROM,
  ),
  key=(*MEMBER_KEY, 'image_key'),
  sort_by=('image_index',),
)

# What no prediction of the original's names: its place says which image it is
# of, and the order of the files which replicate it is by (`prediction_files`).
NOT_IN_ORIGINAL = ('image_key', 'image_index', 'replicate')
ROW = 'Unnamed: 0'
ORIGINAL_PREDICTIONS = Table(
  'predictions of the original',
  "an image, by one member, at the image's place in the shard",
  "the original's imagenet_predictions",
  '<results>/<data set>/predictions_dataframe/<mode>/<shard>/'
  'predictions_dataframe_<time>.csv',
  (
    _count(ROW, 'the row, from 0, in a column without a name'),
    *(
      column
      for column in PREDICTIONS.columns
      # Its split and filename hold the data set and a path: they are not read.
      if column.name not in (*NOT_IN_ORIGINAL, 'split', 'filename')
    ),
  ),
  key=(ROW,),
  sort_by=(),
)

MODAL_LABELS = Table(
  'modal labels',
  'an image at a level: votes of the dense and of the compressed population',
  'pie_dataset_gen.aggregate_predictions',
  '<results>/<data set>/modal_labels/<mode>/<shard>/<method>_<fraction>.csv',
  (
    _fraction('pruning_fraction', 'level of the compressed population'),
    _count('image_index', "the record's position in its shard, from 0"),
    _count('true_class_label', 'class id of the label'),
    _count('variant_modal_label', 'most frequent prediction, compressed'),
    _count('variant_number_observ', 'number of compressed members'),
    _count('baseline_modal_label', 'most frequent prediction, dense'),
    _count('baseline_number_observ', 'number of dense members'),
    Column('pruning_method', 'text', 'how the compressed population was made'),
    Column('filename', 'text', 'shard that holds the image'),
    Column('image_key', 'text', "the image's identity"),
    _fraction('baseline_vote_share', 'share of dense members that agree'),
    _fraction('variant_vote_share', 'share of compressed members that agree'),
    _fraction(
      'baseline_mean_probability',
      'mean of predicted_probability over dense members',
      nullable=True,
    ),
    _fraction(
      'variant_mean_probability',
      'mean of predicted_probability over compressed members',
      nullable=True,
    ),
    _count('baseline_tied', '1 if another label has as many votes', high=1),
    _count('variant_tied', '1 if another label has as many votes', high=1),
    _count(
      'taxicab_distance',
      'sum over labels of |dense votes - compressed votes| (arXiv 2010.03058)',
    ),
    _fraction(
      'baseline_correct_share', 'share of dense members that are right'
    ),
    _fraction(
      'variant_correct_share', 'share of compressed members that are right'
    ),
    _fraction(
      'vote_pvalue',
      'share of memberships, dense or not permuted, that set the votes for the '
      'image as far apart (squared distance)',
      nullable=True,
      default=np.nan,
    ),
    _fraction(
      'vote_qvalue',
      'Benjamini-Hochberg, over those images of the level whose votes could '
      'give a p-value of 0.05',
      nullable=True,
      default=np.nan,
    ),
    _fraction(
      'pie_frequency',
      'share of random halves of both populations between which the image is a '
      'PIE',
      nullable=True,
      default=np.nan,
    ),
  ),
  key=('pruning_method', 'pruning_fraction', 'image_key'),
  sort_by=('image_index',),
)


PIE_NULL = Table(
  'PIE null',
  'a level: PIEs, PIEs by chance, intervals',
  'pie_dataset_gen.aggregate_predictions',
  '<results>/<data set>/<mode>_pie_null.csv',
  (
    *_LEVEL,
    _count('total_images_count', 'images'),
    _count('baseline_number_observ', 'number of dense members'),
    _count('variant_number_observ', 'number of compressed members'),
    _IS_PAIRED,
    _count('pie_count', 'images whose modal labels differ'),
    _amount(
      'pie_count_low',
      'lower end of the 95 % interval of pie_count, had other members been '
      'trained',
    ),
    _amount('pie_count_high', 'upper end of that interval'),
    _count(
      'permutations',
      'other memberships, dense or not permuted, that the true one is compared '
      'with',
      nullable=True,
    ),
    _amount(
      'permuted_mean', 'PIEs by chance: mean number over the memberships'
    ),
    _amount('permuted_low', '2.5th percentile of that number'),
    _amount('permuted_high', '97.5th percentile of that number'),
    _fraction(
      'energy_pvalue',
      'share of memberships that set the votes as far apart (squared '
      'distance): small if the level predicts otherwise than chance explains',
      nullable=True,
    ),
    _fraction(
      'taxicab_pvalue',
      'the same of the absolute distance of the votes',
      nullable=True,
    ),
    _fraction('pie_pvalue', 'the same of the number of PIEs', nullable=True),
    _fraction(
      'smallest_pvalue',
      'the smallest that these can be with so many members and permutations',
      nullable=True,
    ),
    _count(
      'tested_images_count',
      'images that vote_qvalue is corrected over: their votes could give a '
      'vote_pvalue of 0.05',
    ),
    _count(
      'moved_images_count',
      f'images whose vote_qvalue is {SIGNIFICANCE} or less',
      nullable=True,
    ),
    _count('solid_pie_count', 'PIEs among these', nullable=True),
    _fraction(
      'chance_baseline_accuracy',
      'top-1 of dense members on PIEs between two dense halves; empty for '
      'pairs, which do not differ by as much',
      nullable=True,
    ),
    _fraction(
      'chance_variant_accuracy',
      'top-1 of compressed members on these',
      nullable=True,
    ),
    _fraction(
      'held_out_baseline_accuracy',
      'top-1 of half of the dense members on PIEs that the other halves chose',
      nullable=True,
    ),
    _fraction(
      'held_out_variant_accuracy',
      'top-1 of half of the compressed members on these',
      nullable=True,
    ),
    Column('tie_rule', 'text', 'which of several labels with as many votes'),
    _count('baseline_tied_count', 'images with a tied dense modal label'),
    _count('variant_tied_count', 'images with a tied compressed modal label'),
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

# A measure, what it stands beside, and whether that is chance.
_COST = (
  Column('measure', 'text', 'what was measured'),
  Column('value', 'float', 'mean over members, or pairs', nullable=True),
  Column(
    'low',
    'float',
    'lower end of its 95 % interval, had other members been trained',
    nullable=True,
  ),
  Column('high', 'float', 'upper end of that interval', nullable=True),
  Column(
    'reference',
    'float',
    'the same of dense members, or between two dense ones; of pairs in both '
    'directions',
    nullable=True,
  ),
  _fraction(
    'pvalue',
    'share of memberships, dense or not permuted, that set value and '
    'reference as far apart',
    nullable=True,
  ),
  Column(
    'verdict',
    'text',
    "'differs', 'not shown', 'too few members' or 'not tested'",
  ),
  _count(
    'is_paired', '1 if each was made from the dense one of its number', high=1
  ),
  Column('not_available', 'text', 'why cells are empty', default=''),
)

COSTS = Table(
  'costs',
  'a measure at a level, beside what training alone gives',
  'pie_dataset_gen.measure_costs',
  '<results>/<data set>/<mode>_costs.csv',
  (
    *_LEVEL,
    *_COST,
  ),
  key=('pruning_method', 'pruning_fraction', 'measure'),
  # In the order of the measures.
  sort_by=(),
)

# In the place of a set's name.
MEAN_OF_SETS = 'mean over sets'

CORRUPTED_COSTS = Table(
  'costs on corrupted images',
  'a measure at a level on a set of corrupted images',
  'pie_dataset_gen.measure_corrupted_costs',
  '<results>/<data set>/<mode>_corrupted_costs.csv',
  (
    Column(
      'data_set',
      'text',
      f"'<corruption>_<severity>', or '{MEAN_OF_SETS}'",
    ),
    _count('images', 'images of the set, or of all'),
    *_LEVEL,
    *_COST,
  ),
  key=('data_set', 'pruning_method', 'pruning_fraction', 'measure'),
  # In the order of sets and measures.
  sort_by=(),
)

CLASS_COSTS = Table(
  'costs of classes',
  'a class at a level: PIEs and flips beside what training alone gives',
  'pie_dataset_gen.measure_costs',
  '<results>/<data set>/<mode>_class_costs.csv',
  (
    *_LEVEL,
    _count('class_id', 'class id, from 0'),
    Column('class', 'text', 'name of the class'),
    _count('images', 'images of the class'),
    _fraction('image_share', 'of all images'),
    _count('pie_count', 'PIEs of the class'),
    _fraction('pie_share', 'of all PIEs', nullable=True),
    _fraction(
      'pie_pvalue',
      'of as many PIEs in the class or more, if PIEs fell on images at random '
      '(hypergeometric)',
      nullable=True,
    ),
    _fraction(
      'pie_qvalue',
      'Benjamini-Hochberg, over the classes of the level',
      nullable=True,
    ),
    _fraction(
      'newly_wrong',
      'share of the images that a dense member has right and a compressed one '
      'wrong, mean over both',
    ),
    _fraction('newly_right', 'the other way round'),
    _fraction(
      'dense_newly_wrong',
      'share that one dense member has right and another wrong: what training '
      'alone gives, in either direction',
      nullable=True,
    ),
    _fraction(
      'flip_pvalue',
      'share of memberships, dense or not permuted, that set the shares of '
      'members that are right about the images as far apart (squared distance)',
      nullable=True,
    ),
    _fraction(
      'flip_qvalue',
      'Benjamini-Hochberg, over the classes of the level',
      nullable=True,
    ),
  ),
  key=('pruning_method', 'pruning_fraction', 'class_id'),
  sort_by=('pruning_method', 'pruning_fraction', 'class_id'),
)

GROUP_COSTS = Table(
  'costs of groups',
  'a measure of a group of images at a level, beside the dense members',
  'pie_dataset_gen.measure_costs',
  '<results>/<data set>/<mode>_group_costs.csv',
  (
    *_LEVEL,
    Column('group', 'text', "name of the group, or 'all groups'"),
    _count('images', 'images of the group'),
    *_COST,
  ),
  key=('pruning_method', 'pruning_fraction', 'group', 'measure'),
  # In the order of the measures.
  sort_by=(),
)

NEWLY_WRONG = Table(
  'newly wrong',
  'a class and what its newly wrong images are taken for, at a level',
  'pie_dataset_gen.measure_costs',
  '<results>/<data set>/<mode>_newly_wrong.csv',
  (
    *_LEVEL,
    _count('class_id', 'class id of the label'),
    Column('class', 'text', 'name of that class'),
    _count('predicted_class_id', 'class id that compressed members predict'),
    Column('predicted_class', 'text', 'name of that class'),
    Column(
      'images',
      'float',
      'images that a dense member has right and a compressed one takes for '
      'that class, mean over both',
      low=0.0,
    ),
    _amount('dense_images', 'the same of two dense members'),
  ),
  key=('pruning_method', 'pruning_fraction', 'class_id', 'predicted_class_id'),
  # The largest numbers of a level first.
  sort_by=(),
)

RELIABILITY = Table(
  'reliability',
  'a bin of images that are about equally sure, at a level',
  'pie_dataset_gen.measure_costs',
  '<results>/<data set>/<mode>_reliability.csv',
  (
    *_LEVEL,
    _count('bin', 'from 0, the least sure images of each member'),
    _fraction('confidence', 'mean predicted_probability, mean over members'),
    _fraction('accuracy', 'share that is right, mean over members'),
    _fraction('accuracy_low', 'its 95 % interval', nullable=True),
    _fraction('accuracy_high', 'its 95 % interval', nullable=True),
  ),
  key=('pruning_method', 'pruning_fraction', 'bin'),
  # Dense first.
  sort_by=(),
)

GAINS = Table(
  'gains',
  'what a level gains: a measure of one of its members',
  'pie_dataset_gen.measure_gains',
  '<results>/<data set>/gains.csv',
  (
    *_LEVEL,
    Column('measure', 'text', 'what was measured'),
    Column('value', 'float', 'a number, or a ratio', low=0.0, nullable=True),
    Column('not_available', 'text', 'why there is none', default=''),
  ),
  key=('pruning_method', 'pruning_fraction', 'measure'),
  # In the order of the measures.
  sort_by=(),
)

LAYER_GAINS = Table(
  'gains of layers',
  'a layer of a member of a level: weights and multiply-adds',
  'pie_dataset_gen.measure_gains',
  '<results>/<data set>/layer_gains.csv',
  (
    *_LEVEL,
    Column('layer', 'text', "the original's name, without the scope"),
    _count('parameters', 'trained numbers, those that are zero too'),
    _count('nonzero_parameters', 'those that are not zero'),
    _count('multiply_adds', 'multiplications of an image by a weight, dense'),
    _count('nonzero_multiply_adds', 'those by a weight that is not zero'),
  ),
  key=('pruning_method', 'pruning_fraction', 'layer'),
  # In the order of the layers.
  sort_by=(),
)

SPEED = Table(
  'speed',
  'a level: images a second on one machine',
  'pie_dataset_gen.measure_gains',
  '<results>/<data set>/speed.csv',
  (
    *_LEVEL,
    _amount('images_per_second', 'median over rounds'),
    _amount('slowest', 'of the rounds'),
    _amount('fastest', 'of the rounds'),
    Column('rounds', 'int', 'in which the levels took turns', low=1),
    Column('batch_size', 'int', 'images at once', low=1),
    Column('device', 'text', 'that computed'),
  ),
  key=('pruning_method', 'pruning_fraction'),
  sort_by=(),
)

VERDICTS = Table(
  'verdicts',
  'a question about a level: what can be said, and what cannot',
  'pie_dataset_gen.headline_table',
  '<results>/<data set>/<mode>_verdicts.csv',
  (
    *_LEVEL,
    Column(
      'about',
      'text',
      "'costs', 'images', 'PIEs', 'classes', 'groups', 'flips', 'calibration' "
      "or 'odds'",
    ),
    Column(
      'verdict',
      'text',
      "'differs', 'not shown', 'too few members' or 'not tested'",
    ),
    Column('sentence', 'text', 'the verdict in words, with its numbers'),
  ),
  key=('pruning_method', 'pruning_fraction', 'about'),
  # In the order of the printed sentences.
  sort_by=(),
)

HEADLINE = Table(
  'headline',
  'a measure at a level',
  'pie_dataset_gen.headline_table',
  '<results>/headline_table.csv',
  (
    Column('measure', 'text', 'what was measured'),
    Column(
      'pruning_method', 'text', "'baseline' or how the members were compressed"
    ),
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
  'an image, ranked as a label to look at',
  'pie_dataset_gen.rank_suspects',
  '<results>/<data set>/<mode>_suspects.csv',
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
    _fraction(
      'vote_qvalue',
      'smallest over levels times the number of levels, or 1: at most 0.05 '
      'where compression changes the votes for the image; empty where no level '
      'has one',
      nullable=True,
      default=np.nan,
    ),
    Column(
      'vote_qvalue_level',
      'text',
      'method and fraction of the first level that has the smallest',
      default='',
    ),
    _fraction(
      'pie_frequency',
      'share of random halves of both populations between which the image is a '
      'PIE, mean over the levels that have it',
      nullable=True,
      default=np.nan,
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
  "an annotator's answers about an image",
  'the page of pie_dataset_gen.gallery',
  'exported by the page',
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
  'a question at a level, of PIEs or of others: share of yes, agreement',
  'pie_dataset_gen.summarize_annotations',
  '<results>/<data set>/<mode>_annotation_summary.csv',
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
  'a shard at a level: counts of PIEs',
  'pie_dataset_gen.generate_pie_dataset',
  '<pie>/<data set>/stats/<mode>_<shard>_<method>_<fraction>.csv',
  (
    Column('file', 'text', 'shard'),
    _count('pie_count', 'images whose modal labels differ'),
    _count(
      'pruned_correct_count', 'PIEs that the compressed modal label has right'
    ),
    _count('total_images_count', 'images in the shard'),
    _fraction('sparsity', 'level of the compressed population'),
    Column('mode', 'text', "'train' or 'eval'"),
    Column('pruning_method', 'text', 'how the compressed population was made'),
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
  'a class, by one member',
  'per_class_accuracy.aggregate_ckpt_metrics',
  '<results>/<data set>/class_metrics/<mode>/class_metrics_<member>.csv',
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
    _MADE_FROM,
  ),
  key=(*MEMBER_KEY, 'class_id'),
  sort_by=('class_id',),
)

GROUPS = Table(
  'groups',
  'a class or an image, and a group that it is of',
  'save_checkpoint.build_image_data, or a person',
  'data/groups_<mode>.csv, or given as --groups_file',
  (
    Column('group', 'text', 'name of the group'),
    _count('class_id', 'a class of the group', nullable=True, default=np.nan),
    Column('class', 'text', 'a class of the group, by name', default=''),
    Column('image_key', 'text', 'an image of the group', default=''),
  ),
  key=('group', 'class_id', 'class', 'image_key'),
  sort_by=('group', 'class_id', 'class', 'image_key'),
)

CLASSES = Table(
  'classes',
  'a class and its name; with groups, a class of one of them',
  'a person',
  '<study>/classes.csv, or given as --classes_file',
  (
    _count('class_id', 'class id, in the order that predictions have'),
    Column('class_name', 'text', 'its name'),
    Column(
      'group',
      'text',
      'a group that it is of, for --groups_file; empty for none',
      default='',
    ),
  ),
  key=('class_id', 'group'),
  sort_by=('class_id', 'group'),
)


def _number(name: str, meaning: str, **options) -> Column:
  return Column(name, 'float', meaning, nullable=True, **options)


T_STATISTIC = Table(
  't-tests of classes',
  'a class at a level: change of recall, test, q-value',
  'per_class_accuracy.gen_tstatistic',
  '<results>/<data set>/<mode>/recall_t_statistic.csv',
  (
    Column('class', 'text', 'name of the class'),
    _LEVEL[1],
    _fraction('baseline_mean_recall', 'mean over dense models', nullable=True),
    _fraction(
      'variant_mean_recall', 'mean over compressed models', nullable=True
    ),
    _fraction(
      'pvalue_recall_norm',
      'of the two-sided Welch test of normalised recall, uncorrected; where '
      'no model of either group differs from its group, pvalue_permutation',
      nullable=True,
    ),
    _number(
      'statistic_recall_norm',
      'Welch t, dense minus compressed: positive if the class lost more than '
      'the model as a whole; empty with a reason',
    ),
    _count('class_id', 'class id, from 0'),
    _LEVEL[0],
    _count('support', 'images of the class', nullable=True),
    _number('recall_change', 'compressed minus dense mean recall'),
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
    _fraction(
      'pvalue_permutation',
      'share of memberships, dense or not permuted, at which the statistic of '
      'the class is as large in either direction',
      nullable=True,
      default=np.nan,
    ),
    _fraction(
      'pvalue_max_t',
      'share of memberships at which that of any class is as large: adjusted '
      'for the number of classes (Westfall & Young)',
      nullable=True,
      default=np.nan,
    ),
  ),
  key=('pruning_method', 'pruning_fraction', 'class_id'),
  sort_by=('class_id', 'pruning_method', 'pruning_fraction'),
)

CLASS_IMPACT_SUMMARY = Table(
  'class impact',
  'a level: classes that moved, and by chance',
  'per_class_accuracy.gen_tstatistic',
  '<results>/<data set>/<mode>/class_impact_summary.csv',
  (
    *_LEVEL,
    Column('normalisation', 'text', 'what was subtracted from recall'),
    _count('baseline_models', 'number of dense models'),
    _count('variant_models', 'number of compressed models'),
    _IS_PAIRED,
    _fraction('baseline_accuracy', 'mean that was subtracted, dense'),
    _fraction('variant_accuracy', 'mean that was subtracted, compressed'),
    _count('classes', 'number of classes'),
    _count('tested', 'classes that have a p-value'),
    _count('lower', 'classes significantly lower, uncorrected'),
    _count('higher', 'classes significantly higher, uncorrected'),
    _count('lower_corrected', 'of these, with a q-value as low'),
    _count('higher_corrected', 'of these, with a q-value as low'),
    _number('expected_by_chance', 'tested times the level of significance'),
    _count(
      'permutations',
      'other memberships, dense or not permuted, that the true one is compared '
      'with',
      nullable=True,
      default=np.nan,
    ),
    _number(
      'significant_permuted_mean',
      'significant classes, uncorrected, mean over the other memberships: what '
      'chance gives beside lower plus higher',
      default=np.nan,
    ),
    _number(
      'significant_permuted_low', '2.5th percentile over them', default=np.nan
    ),
    _number(
      'significant_permuted_high', '97.5th percentile over them', default=np.nan
    ),
    _fraction(
      'significant_pvalue',
      'share of memberships that have more significant classes, lower plus '
      'higher, than the true one, or as many and as large a statistic',
      nullable=True,
      default=np.nan,
    ),
    _fraction(
      'significant_pvalue_smallest',
      'the smallest p that so many models and memberships can give, of a class '
      'or of their number',
      nullable=True,
      default=np.nan,
    ),
    _number(
      'lower_corrected_permuted',
      'lower_corrected, mean over the others',
      default=np.nan,
    ),
    _number(
      'higher_corrected_permuted',
      'higher_corrected, mean over the others',
      default=np.nan,
    ),
    _number('lower_mean_recall_change', 'mean over the lower classes'),
    _number('lower_mean_normalised_change', 'mean over the lower classes'),
    _number('higher_mean_recall_change', 'mean over the higher classes'),
    _number('higher_mean_normalised_change', 'mean over the higher classes'),
    Column('worst_class', 'text', 'class of the lowest recall, compressed'),
    _fraction('worst_recall', 'its variant_mean_recall', nullable=True),
    *(
      _fraction(
        f'worst_recall_{end}',
        'a 95 % interval of the lowest of the true recalls; knows that the '
        'class was chosen',
        nullable=True,
        default=np.nan,
      )
      for end in ('low', 'high')
    ),
    _fraction(
      'worst_to_best', 'worst_recall over the best, compressed', nullable=True
    ),
    _fraction(
      'baseline_worst_to_best', 'lowest over best recall, dense', nullable=True
    ),
    Column(
      'baseline_worst_class',
      'text',
      'class of the lowest recall, dense',
      default='',
    ),
    *(
      _fraction(
        f'baseline_worst_recall{end}', meaning, nullable=True, default=np.nan
      )
      for end, meaning in (
        ('', 'its baseline_mean_recall'),
        ('_low', 'a 95 % interval of the lowest, as of worst_recall'),
        ('_high', 'a 95 % interval of the lowest, as of worst_recall'),
      )
    ),
  ),
  key=('pruning_method', 'pruning_fraction'),
  sort_by=('pruning_method', 'pruning_fraction'),
)


ROBUSTNESS = Table(
  'robustness',
  'a class, by one member, on one set of images',
  'robustness_tests.imagenet_corruptions',
  '<robustness>/<name>/<corruption>_<severity>/<member>.csv',
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


def _interval(name: str) -> tuple[Column, ...]:
  return tuple(
    Column(
      f'{name}_{end}', 'float', 'its 95 % interval', None, None, True, np.nan
    )
    for end in ('low', 'high')
  )


ROBUSTNESS_SUMMARY = Table(
  'robustness summary',
  'a level, corruption and severity',
  'robustness_tests.summarize',
  '<robustness>/robustness_summary.csv',
  (
    Column('dataset_name', 'text', 'what was measured'),
    Column(
      'pruning_method', 'text', "'baseline' or how the members were compressed"
    ),
    _fraction('fraction_pruned', 'level of the population'),
    Column('corruption', 'text', "ImageNet-C's name, or 'all' for their mean"),
    _count('corruption_intensity', 'severity 1 to 5; 0 for their mean', high=5),
    _count('num_models', 'members of the population'),
    _IS_PAIRED,
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

MEMBERS_NEEDED = Table(
  'members needed',
  'a class, a group or the whole at a level, and a number of members',
  'pie_dataset_gen.how_many_members',
  '<results>/<data set>/<mode>_members_needed.csv',
  (
    *_LEVEL,
    Column(
      'what',
      'text',
      "'accuracy' (of the whole), 'typical class' (of median deviation), "
      "'noisiest class', 'class' or 'group'",
    ),
    _count('class_id', 'class id, or position of the group', nullable=True),
    Column('class', 'text', 'name of the class or group'),
    Column('num_members', 'int', 'members a side', low=2),
    _amount(
      'smallest_change',
      'change that the two-sided test at 5 % (Welch, or of pairs) finds in 8 '
      'of 10 studies, of recall less accuracy, or of the accuracy; above 1 '
      'none is found; empty where no member of the pilot differs from its '
      'population',
    ),
    _amount(
      'smallest_change_low',
      'lower end of its 95 % interval, from that of the deviation',
    ),
    _amount('smallest_change_high', 'upper end of that interval'),
    _amount(
      'smallest_change_corrected',
      'the same at 5 % over the number of classes, or groups, whose recall is '
      'known (Bonferroni); empty for the whole',
    ),
    _amount(
      'deviation',
      'root of the mean of both variances over the members of the pilot',
    ),
    _count('baseline_models', 'dense members of the pilot'),
    _count('variant_models', 'compressed members of the pilot'),
    _IS_PAIRED,
  ),
  key=('pruning_method', 'pruning_fraction', 'what', 'class_id', 'num_members'),
  # In the order of the printed lines.
  sort_by=(),
)

SUBSET_TESTS = Table(
  'subset tests',
  'a level and a number of members: the exact test of that many',
  'pie_dataset_gen.how_many_members',
  '<results>/<data set>/<mode>_subset_tests.csv',
  (
    *_LEVEL,
    Column('num_members', 'int', 'members a side', low=2),
    _fraction(
      'smallest_pvalue', 'the smallest that any predictions of so many can give'
    ),
    _count('subsets', 'subsets of the members; 0 where there are too few'),
    _fraction('median_pvalue', 'over the subsets', nullable=True),
    _fraction(
      'share_found',
      'subsets with a p-value of 0.05 or less; they share members',
      nullable=True,
    ),
    _IS_PAIRED,
  ),
  key=('pruning_method', 'pruning_fraction', 'num_members'),
  sort_by=('pruning_method', 'pruning_fraction', 'num_members'),
)

PEOPLE = Table(
  'people',
  'a level, a score that people gave images, and a statistic',
  'pie_dataset_gen.compare_with_people',
  '<results>/<data set>/<mode>_people_<name>.csv',
  (
    Column(
      'pruning_method',
      'text',
      "how models were compressed; 'baseline' and 'all' are rankings of images "
      'without PIEs, by dense and by all members',
    ),
    _fraction('pruning_fraction', 'level of the compressed population'),
    Column('people_score', 'text', "'entropy', ..., or the name of the column"),
    Column(
      'ranking',
      'text',
      "what is held against it: 'pie' (or not), 'distance' of the votes, "
      "'disagreement' of networks with the label, or that of 'one_network'",
    ),
    Column(
      'statistic',
      'text',
      "'difference' of means, 'matched_difference' among images on which dense "
      "networks vote alike, 'auc', 'spearman', 'average_precision', "
      "'precision_at_k'",
    ),
    Column('value', 'float', 'the statistic', nullable=True),
    Column(
      'value_low',
      'float',
      'lower end of its 95 % interval over images',
      nullable=True,
    ),
    Column('value_high', 'float', 'upper end of that interval', nullable=True),
    Column(
      'by_chance',
      'float',
      'mean over permuted memberships; of rankings what a random one gives',
      nullable=True,
    ),
    Column(
      'by_chance_low',
      'float',
      '2.5th percentile over permuted memberships',
      nullable=True,
    ),
    Column('by_chance_high', 'float', '97.5th percentile', nullable=True),
    _fraction(
      'pvalue',
      'share of memberships that give as large a statistic',
      nullable=True,
    ),
    _count('images_count', 'images that people saw and members predicted'),
    _count('chosen_count', 'PIEs, or images with a score of 1', nullable=True),
  ),
  key=(
    'pruning_method',
    'pruning_fraction',
    'people_score',
    'ranking',
    'statistic',
  ),
  # In the order in which they are told.
  sort_by=(),
)

STUDY_FILES = Table(
  'files of a study',
  'a file: whether it is complete, unchanged and up to date, and who made it',
  'pie_dataset_gen.check_study',
  'where --output_file says',
  (
    Column('file', 'text', 'path in the study'),
    Column('kind', 'text', 'name of the table, or what else it is'),
    Column(
      'state',
      'text',
      "'unchanged' since it was written, 'unverified' for want of a checksum, "
      "'being written', 'damaged', 'stale' as an input changed, 'unfinished', "
      "'leftover' of a kill, 'orphan' of a network that is gone",
    ),
    Column('remark', 'text', 'why'),
    _count('bytes', 'size'),
    Column(
      'record',
      'text',
      'path of the record of the command that made it, which names the inputs; '
      'empty where there is none',
    ),
    Column('command', 'text', 'that command'),
  ),
  key=('file',),
  sort_by=('file',),
)
