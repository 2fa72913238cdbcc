"""What a quantised network was made from, and how: in its description.

`save_checkpoint.quantise_checkpoints` writes it as `made_from` of the JSON
beside a `.tflite` (`network_files`), and whoever predicts by the network reads
it, so that pairs are known and nothing is mixed:

  member             path, from the root of the study, of the network that was
                     quantised
  checkpoint_sha256  of that network's file, as it was then
  network_sha256     of the `.tflite`
  how                what else decides its bytes: the quantisation, the versions
                     of the packages, the images it was calibrated on
  trained_on         what the member's record says of its images and classes
                     (`member_checks`), which hold for the network as well

Networks from elsewhere may name their `member`, too, if there is one in the
study. Nothing here imports TensorFlow.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from utils import digests, member_paths, network_files, storage


def made_from(
  source: member_paths.Checkpoint,
  network: bytes,
  how: Mapping[str, object],
  trained_on: Mapping[str, object],
) -> dict[str, object]:
  """What a description says of a network that was quantised.

  Args:
    source: the network that it was made from.
    network: the bytes of the `.tflite`.
    how: what else decides them, as JSON.
    trained_on: what the source was trained on; empty where nobody says.
  """
  return {
    'member': source.path_in_study,
    'checkpoint_sha256': digests.of_file(source.completed_by),
    'network_sha256': digests.of_bytes(network),
    'how': dict(how),
    'trained_on': dict(trained_on),
  }


def check(checkpoint: member_paths.Checkpoint) -> str:
  """Holds a network against what it says it was made from.

  Returns:
    The path, from the root of the study, of the member that it was made from;
    '' for one that was trained, or does not say.

  Raises:
    FileNotFoundError, ValueError: it is damaged, or its source is another by
      now; names the file.
  """
  made = _read(checkpoint)
  member = made.get('member', '')
  if not member:
    return ''
  path = checkpoint.described_by
  try:
    source = member_paths.parse(member)
  except ValueError as error:
    raise ValueError(f'{path}: made_from.{error}') from None
  network = checkpoint.completed_by
  if made.get('network_sha256', '') not in ('', digests.of_file(network)):
    raise ValueError(
      f'{network} is damaged, or is not the file that {path} describes: their '
      'SHA-256 differ'
    )
  # Where it lies if it lies in the same study.
  prefix = checkpoint.prefix.removesuffix(checkpoint.path_in_study) + member
  there = member_paths.Checkpoint(source.member, source.step, prefix)
  digest = made.get('checkpoint_sha256', '')
  is_there = digest and storage.exists(there.completed_by)
  if is_there and digests.of_file(there.completed_by) != digest:
    raise ValueError(
      f'{network} was made from another checkpoint than the one that lies in '
      f'{prefix} now: quantise it again, or remove it'
    )
  return source.path_in_study


def check_alike(checkpoints: Iterable[member_paths.Checkpoint]) -> None:
  """Refuses levels whose members were quantised in different ways.

  Raises:
    ValueError: names two files and what differs.
  """
  first: dict[member_paths.Level, tuple[str, Mapping[str, Any]]] = {}
  for checkpoint in checkpoints:
    how = _flat(_read(checkpoint).get('how'))
    path = checkpoint.completed_by
    other, wanted = first.setdefault(checkpoint.member.level, (path, how))
    differ = sorted(
      name for name in {*how, *wanted} if how.get(name) != wanted.get(name)
    )
    if differ:
      name = differ[0]
      raise ValueError(
        f'{path} and {other} are of one level, {checkpoint.member.level.words},'
        f' but were not made alike: {name} is {how.get(name)} and '
        f'{wanted.get(name)}'
      )


def _read(checkpoint: member_paths.Checkpoint) -> Mapping[str, Any]:
  if checkpoint.kind not in network_files.DESCRIBED:
    return {}
  return network_files.read(checkpoint.described_by).made_from


def _flat(how: object, within: str = '') -> dict[str, str]:
  """The leaves of nested objects, by the way to them."""
  if not isinstance(how, Mapping):
    return {within: json.dumps(how)}
  return {
    name: value
    for key, of in how.items()
    for name, value in _flat(of, f'{within}{"." * bool(within)}{key}').items()
  }
