"""Images that stand more than once in a data set that is being built.

An image is the same if its bytes are. One that is both trained on and evaluated
on is remembered, not recognised; one that stands under two classes is wrong
once.
"""

import collections
from collections.abc import Mapping, Sequence

from absl import logging

from save_checkpoint import planned_shards

# If so large a share of a split stands in the other one as well, it is no
# accident of a few images: the split is another one's.
_REFUSED_SHARE = 0.5
_NAMED = 3


def check(
  plans: Mapping[str, Sequence[planned_shards.ShardPlan]],
  results: Mapping[str, Mapping],
) -> None:
  """Counts the images that stand in both splits, or twice in one.

  Args:
    plans: split -> shards.
    results: a shard's path -> what `planned_shards.write_shard` returned.

  Raises:
    ValueError: half of the images of a split, or more, stand in the other one.
  """
  seen: dict[str, dict[str, list[tuple[str, int]]]] = {}
  for split, shards in plans.items():
    found: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
    seen[split] = found
    for plan in shards:
      # Shards that were written before there were digests have none.
      images = results[plan.path].get('images') or ()
      for picture, label, digest in zip(
        plan.pictures, plan.labels, images, strict=False
      ):
        found[digest].append((picture.key, label))
    _warn_of_repeated(split, found)
  if len(seen) > 1:
    _check_common(*seen.values())


def _warn_of_repeated(
  split: str, found: Mapping[str, Sequence[tuple[str, int]]]
) -> None:
  repeated = [images for images in found.values() if len(images) > 1]
  contradict = [
    images for images in repeated if len({label for _, label in images}) > 1
  ]
  for some, what in (
    (repeated, 'stand more than once'),
    (contradict, 'stand under more than one class'),
  ):
    if some:
      logging.warning(
        '%s: %d images %s, for example %s',
        split,
        len(some),
        what,
        ' = '.join(key for key, _ in some[0][:_NAMED]),
      )


def _check_common(
  train: Mapping[str, Sequence[tuple[str, int]]],
  validation: Mapping[str, Sequence[tuple[str, int]]],
) -> None:
  common = sorted(train.keys() & validation.keys())
  if not common:
    return
  number = sum(len(validation[digest]) for digest in common)
  total = sum(map(len, validation.values()))
  named = ', '.join(
    f'{validation[digest][0][0]} (in train: {train[digest][0][0]})'
    for digest in common[:_NAMED]
  )
  said = (
    f'{number} of {total} evaluation images are training images as well, byte '
    f'by byte, for example {named}: networks remember them'
  )
  if number >= _REFUSED_SHARE * total:
    raise ValueError(f'{said}. Wanted splits without a common image')
  logging.warning('%s. Remove them from one of the two', said)
