"""What is wrong with members before they predict, though each can be read.

Beside a member's checkpoints lies the record of its training
(`imagenet_train_eval.run.json`). It says how long the member was to be trained
and, in settings.data, on what: the images' digest and, as `reading`, the
classes in their order, sizes and the channels' statistics. It travels with the
member's folder, and of a quantised one stands in its description (`quantised`);
whoever predicts holds the data set against it. Members from elsewhere have no
such record, and are taken as they are with a word in the log. Nothing here
imports TensorFlow.
"""

import collections
import concurrent.futures
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging
from etils import epath

from utils import (
  image_records,
  member_paths,
  network_files,
  paths,
  provenance,
  storage,
)

TRAINING_SCRIPT = 'save_checkpoint.imagenet_train_eval'


class Training(NamedTuple):
  """What is recorded of a member's training.

  Attributes:
    train_steps: how long it was to be trained, None where nobody recorded it.
    data: the images' digest and the classes that a member knows, as `digest`
      and `reading`, where recorded.
  """

  train_steps: int | None
  data: Mapping[str, Any]


def training_of(checkpoint: member_paths.Checkpoint) -> Training:
  """What is recorded of a member's training.

  A quantised one knows what its source does, and says so in its description.

  Raises:
    ValueError: the record, or the description, is damaged; names it.
  """
  settings = _settings_of(checkpoint)
  data = settings.get('data', {})
  if checkpoint.kind in network_files.DESCRIBED:
    path = checkpoint.described_by
    data = network_files.read(path).made_from.get('trained_on', {})
    if not isinstance(data, dict):
      raise ValueError(f'{path} is damaged: made_from.trained_on is no object')
  return Training(
    settings.get('train_steps'),
    {name: data[name] for name in ('digest', 'reading') if name in data},
  )


def read(
  checkpoints: Iterable[member_paths.Checkpoint],
) -> dict[member_paths.Checkpoint, Training]:
  """What is recorded of the training of each; as `training_of`."""
  checkpoints = list(checkpoints)
  # Of a bucket, which answers many requests at once.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    found = pool.map(training_of, checkpoints)
    return dict(zip(checkpoints, found, strict=True))


def _settings_of(checkpoint: member_paths.Checkpoint) -> Mapping[str, Any]:
  """The settings of a member's training, empty where nobody recorded them."""
  path = paths.provenance(
    str(epath.Path(checkpoint.prefix).parent),
    TRAINING_SCRIPT.rsplit('.', maxsplit=1)[-1],
  )
  if not checkpoint.prefix or not storage.exists(path):
    return {}
  settings = provenance.read(path).get('settings', {})
  if not isinstance(settings, dict) or not isinstance(
    settings.get('data', {}), dict
  ):
    raise ValueError(f'{path} is damaged: wanted objects in settings and data')
  return settings


def check_together(
  trained: Mapping[member_paths.Checkpoint, Training],
) -> None:
  """Refuses members that are no independent members of one study.

  Args:
    trained: what is recorded of each, as `read` gives it.

  Raises:
    ValueError: two of a level are byte-equal, some are half-trained while
      others are finished, or two were trained on different images; names them.
  """
  _check_copies(list(trained))
  finished: list[str] = []
  half_trained: list[str] = []
  first: tuple[str, str] | None = None
  for checkpoint, training in trained.items():
    if training.train_steps is not None:
      done = checkpoint.step >= training.train_steps
      (finished if done else half_trained).append(
        f'{checkpoint.prefix} (step {checkpoint.step} of '
        f'{training.train_steps})'
      )
    images = training.data.get('digest')
    if not images:
      continue
    first = first or (checkpoint.prefix, images)
    if images != first[1]:
      raise ValueError(
        f'{first[0]} and {checkpoint.prefix} were trained on different images '
        '(settings.data of imagenet_train_eval.run.json beside them, or '
        'made_from of their description): what tells '
        'them apart would be taken for an effect of compression; name the '
        'members of one data set'
      )
  if finished and half_trained:
    raise ValueError(
      f'{len(half_trained)} members are half-trained, for example '
      f'{half_trained[0]}, and {len(finished)} are finished: train them to '
      'their end, by the command that began, or name the finished ones only'
    )


def _check_copies(checkpoints: Sequence[member_paths.Checkpoint]) -> None:
  found = network_files.identities(checkpoints)
  alike: dict[tuple, list[str]] = collections.defaultdict(list)
  for checkpoint in checkpoints:
    content = found[checkpoint.file_stem]
    if isinstance(content, dict):  # beside it, a description
      content = content['content']
    # After another step a network that was not trained on may be the same.
    key = checkpoint.member.level, checkpoint.step, content
    alike[key].append(checkpoint.prefix)
  for prefixes in alike.values():
    if len(prefixes) > 1:
      raise ValueError(
        f'{" and ".join(prefixes[:4])} hold the same network, byte by byte: a '
        'copy is no independent replicate, and counted as one it makes chance '
        'look like an effect; remove the copies'
      )


def check_data(
  trained: Mapping[member_paths.Checkpoint, Training],
  described: Sequence[image_records.ImageRecords],
) -> None:
  """Holds data sets against what members were trained on.

  Sizes and statistics that differ may be meant, and are warned about.

  Args:
    trained: what is recorded of each, as `read` gives it.
    described: the data sets.

  Raises:
    ValueError: the classes are others, or in another order; names one.
  """
  known: dict[str, tuple[str, Mapping[str, Any]]] = {}
  silent = []
  for checkpoint, training in trained.items():
    reading = training.data.get('reading')
    if isinstance(reading, dict):
      text = json.dumps(reading, sort_keys=True)
      known.setdefault(text, (checkpoint.prefix, reading))
    else:
      silent.append(checkpoint.prefix)
  if silent and not known:
    logging.info(
      '%s does not say what it was trained on: that its classes are those of '
      'the data set, in this order, is taken for granted',
      silent[0],
    )
  warnings: dict[str, None] = {}
  for prefix, reading in known.values():
    for records in described:
      warnings |= _check_classes(prefix, reading, records)
      warnings |= _other_pixels(reading, records)
  for warning in warnings:
    logging.warning('%s', warning)


def _other_pixels(
  trained: Mapping[str, Any], records: image_records.ImageRecords
) -> dict[str, None]:
  """Warnings of sizes and statistics, each once."""
  return {
    f'members were trained on images of {field} {trained[field]}, the data set '
    f'{records.name} has {getattr(records, field)} (image_records.json): they '
    'see other pixels than they know. Build the images of training and of '
    'evaluation in one command, or give both the same value': None
    for field in ('image_size', 'channel_mean', 'channel_std')
    if field in trained and not _equal(trained[field], getattr(records, field))
  }


def _equal(one: Any, other: Any) -> bool:
  if isinstance(other, tuple):
    # Half a unit of 255 is no other data set.
    return all(abs(a - b) < 0.5 for a, b in zip(one, other, strict=True))
  return one == other


def _check_classes(
  prefix: str, trained: Mapping[str, Any], records: image_records.ImageRecords
) -> dict[str, None]:
  """Compares stable names where both have them, words otherwise.

  Returns:
    A warning of names that differ but do not say that the order does, or none.
  """
  field = 'class_keys'
  if not (trained.get(field) and records.class_keys):
    field = 'class_names'
  was, is_now = list(trained.get(field) or []), list(getattr(records, field))
  ids = [str(i) for i in range(len(is_now))]
  nameless = ids in (was, is_now) and not set(was) & set(is_now)
  if was == is_now or nameless:  # Without a description, ids are the names.
    return {}
  number = {name: i for i, name in enumerate(is_now)}
  moved = [
    (name, i, number[name])
    for i, name in enumerate(was)
    if number.get(name, i) != i
  ]
  if moved:
    name, i, j = moved[0]
    raise ValueError(
      f'{prefix} was trained with {name!r} as class {i}, in the data set '
      f'{records.name} it is class {j} ({len(moved)} of {len(was)} classes '
      'stand elsewhere): give build_image_data the order of training by '
      '--labels_file, or train anew'
    )
  renamed = [
    pair for pair in zip(was, is_now, strict=False) if len(set(pair)) > 1
  ]
  if len(renamed) == max(len(was), len(is_now)):
    raise ValueError(
      f'{prefix} was trained on other classes than the data set {records.name} '
      f'has: {was[:3]} and {is_now[:3]}'
    )
  return {
    f'{len(renamed)} classes have another name in the data set {records.name} '
    f'than where members were trained, for example {renamed[0][1]!r} for '
    f'{renamed[0][0]!r}: they are taken to be the same': None
  }
