r"""Quantises trained members after training: float16, dynamic int8, int8.

Reads
  --ckpt_dir        members, dense or pruned, as save_checkpoint.
                    imagenet_train_eval writes them: one prefix (.../model.
                    ckpt-168), a folder (the last checkpoint of each member
                    below it), a glob, or a list of these
  --data_directory  TFRecord shards: the description, whose normalisation goes
                    into the networks, and for int8 images of the train split

Writes, for each member and quantisation, below --output_dir
  <method>/<fraction_pruned>/<begin>/<end>/<frequency>/<replicate>/
  model.ckpt-<step>.tflite   the network: pixels on the 0..255 scale in, scores
                             out, both float32
  model.ckpt-<step>.json     its description (utils/network_files.py), and what
                             it was made from, and how (utils/quantised.py)

and quantise_checkpoints.run.json. The method of a dense member's is the
quantisation (int8 at 0.0), of a pruned one's both words (threshold_int8 at
0.9); everything else of the path is its source's. So a quantised member is one
like any other: imagenet_predictions, imagenet_corruptions and all that follows
take it up.

A member that was quantised from a dense member of the study is compared with it
in pairs: whoever tests reads that from the description. Members quantised from
dense networks of their own, of replicates that the study does not hold, are
independent, and are tested so.

  python -m save_checkpoint.quantise_checkpoints --study=runs/digits \
      --pruning_method=baseline --quantisation=int8

takes 10 seconds for ten members on two cores; a ResNet-50 about 15 each. The
same images, versions and checkpoints give the same bytes. Members that are
there are skipped, after their files were held against their descriptions. A
checkpoint that has changed, other images, other versions of the packages: each
is refused, since the members of a level would not be alike.

What the quantisations are: save_checkpoint/quantisation.py. Conversion leaks
memory, and so runs in processes that are replaced, --num_processes at a time;
1 is this process alone.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from absl import flags, logging
from etils import epath

from save_checkpoint import calibration, quantisation
from utils import (
  command_line,
  digests,
  image_records,
  member_checks,
  member_paths,
  network_files,
  preprocessing,
  provenance,
  quantised,
  storage,
  tfrecords,
  workers,
)

_SCRIPT = 'save_checkpoint.quantise_checkpoints'
_KIND = 'tflite'
# Members that a process quantises before it is replaced: some 20 MB are lost
# with each conversion of a ResNet-50.
_MEMBERS_PER_PROCESS = 16


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'ckpt_dir',
    '',
    'Members to quantise: prefix, folder, glob, or a list of these. Quantised '
    'ones among them are left out.',
  )
  flags.DEFINE_string(
    'pruning_method',
    '',
    'Method of the members to quantise, baseline for dense ones. Empty: all.',
  )
  flags.DEFINE_list(
    'quantisation',
    ['float16', 'dynamic_int8', 'int8'],
    f'Some of {", ".join(quantisation.QUANTISATIONS)}, separated by commas. '
    'float32 is converted, not quantised.',
  )
  flags.DEFINE_string(
    'data_directory', '', 'TFRecord shards: folder, glob, or a list of files.'
  )
  flags.DEFINE_string(
    'output_dir', '', 'Folder of the experiment; its name is the experiment.'
  )
  flags.DEFINE_integer(
    'calibration_images',
    128,
    'Images of the train split that int8 takes the ranges of activations from.',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'calibration_batch_size',
    8,
    'Of these images at once. All activations of a batch are in memory: of a '
    'ResNet-50 at 224 pixels some 100 MB an image.',
    lower_bound=1,
  )
  flags.DEFINE_integer('seed', 0, 'Decides which images.', lower_bound=0)
  flags.DEFINE_enum(
    'preprocessing',
    'legacy',
    preprocessing.NAMES,
    'How they are resized, as imagenet_predictions does.',
  )
  flags.DEFINE_integer(
    'num_processes', 2, 'Members quantised at once.', lower_bound=1
  )
  command_line.define_scheduler()


def target_of(
  source: member_paths.Checkpoint, of: str, output_dir: str
) -> member_paths.Checkpoint:
  """Where a member's quantised form lies.

  Args:
    source: the member.
    of: a quantisation.
    output_dir: folder of the experiment.
  """
  member = source.member
  method = of if member.level.is_dense else f'{member.pruning_method}_{of}'
  target = member_paths.Member(
    epath.Path(output_dir).name,
    method,
    member.fraction_pruned,
    member.begin_step,
    member.end_step,
    member.pruning_frequency,
    member.replicate,
  )
  folder = member_paths.folder_of(output_dir, target)
  prefix = member_paths.prefix_in(folder, source.step)
  return member_paths.Checkpoint(target, source.step, prefix, _KIND)


def run(
  ckpt_dir: str,
  data_directory: str,
  output_dir: str,
  quantisations: Sequence[str],
  pruning_method: str = '',
  calibration_images: int = 128,
  calibration_batch_size: int = 8,
  seed: int = 0,
  preprocessing_name: str = 'legacy',
  place: workers.Place = workers.HERE,
) -> list[member_paths.Checkpoint]:
  """Quantises members; the arguments are the flags.

  Returns:
    The quantised members, those that were there included.

  Raises:
    ValueError: a quantisation is unknown, a member or shard is damaged, or
      what is there was made otherwise; names it.
    FileNotFoundError: there are no members, or no shards.
  """
  unknown = sorted(set(quantisations) - set(quantisation.QUANTISATIONS))
  if unknown or not quantisations:
    raise ValueError(
      f'--quantisation is {",".join(quantisations)!r}, wanted some of '
      f'{", ".join(quantisation.QUANTISATIONS)}'
    )
  sources = [
    c
    for c in member_paths.find(ckpt_dir)
    if c.kind == 'bundle' and pruning_method in ('', c.member.pruning_method)
  ]
  if not sources:
    raise FileNotFoundError(
      f'{ckpt_dir} holds no checkpoint of save_checkpoint.imagenet_train_eval'
      + (f' by {pruning_method}' if pruning_method else '')
    )
  shards = image_records.find_shards(data_directory, 'train')
  records = tfrecords.describe(shards)
  chosen = calibration.choose_shards(shards, seed)
  hows: dict[str, dict[str, Any]] = {
    of: {
      'quantisation': of,
      'versions': quantisation.versions(of),
      'normalisation': {
        'mean': records.channel_mean,
        'deviation': records.channel_std,
      },
    }
    for of in quantisations
  }
  if quantisation.INT8 in hows:
    hows[quantisation.INT8]['calibration'] = {
      'images': calibration_images,
      'batch_size': calibration_batch_size,
      'seed': seed,
      'preprocessing': preprocessing.version(preprocessing_name),
      'shards': digests.of_each({storage.name(path): path for path in chosen}),
    }
  record = provenance.Provenance(
    output_dir,
    _SCRIPT,
    {
      'checkpoints': digests.of_each(
        {source.file_stem: source.completed_by for source in sources}
      ),
      'how': hows,
    },
  )
  targets = {
    source: {of: target_of(source, of, output_dir) for of in quantisations}
    for source in sources
  }
  found = [target for of in targets.values() for target in of.values()]
  missing = _missing(targets)
  total = sum(map(len, missing.values()))
  logging.info('%d of %d members are quantised', len(found) - total, len(found))
  if missing:
    record.start()
    with (
      workers.scratch_folder(place, output_dir) as scratch,
      tqdm.tqdm(
        desc='quantising',
        unit=' members',
        total=total,
        mininterval=0.5,
        dynamic_ncols=True,
      ) as progress,
    ):
      images = storage.within(scratch, 'calibration.npy')
      read = functools.partial(
        _read_calibration, chosen, calibration_images, seed, preprocessing_name
      )
      work = functools.partial(
        _quantise,
        records=records,
        images=images,
        batch_size=calibration_batch_size,
        hows=hows,
      )
      for number in _spread(
        place, missing, targets, images, read, work, progress
      ):
        progress.update(number)
  record.finish([source.completed_by for source in sources])
  return sorted(found)


def _missing(
  targets: Mapping[
    member_paths.Checkpoint, Mapping[str, member_paths.Checkpoint]
  ],
) -> dict[member_paths.Checkpoint, list[str]]:
  """The quantisations of each member that are still to be made.

  Raises:
    ValueError: one that is there is damaged, or was made from another
      checkpoint; names it.
  """
  missing: dict[member_paths.Checkpoint, list[str]] = {}
  for source, of_source in targets.items():
    for of, target in of_source.items():
      if storage.exists(target.completed_by):
        quantised.check(target)
      else:
        missing.setdefault(source, []).append(of)
  return missing


def _spread(
  place: workers.Place,
  missing: Mapping[member_paths.Checkpoint, Sequence[str]],
  targets: Mapping[
    member_paths.Checkpoint, Mapping[str, member_paths.Checkpoint]
  ],
  images: str,
  read: Callable[[str], None],
  work: Callable[..., int],
  progress: tqdm.tqdm,
) -> Iterator[int]:
  """Yields, member by member, how many networks were written of it."""
  sources = list(missing)
  # Processes are replaced in time; a cluster's workers are by their own flags.
  of_all = place.processes * _MEMBERS_PER_PROCESS
  if place.scheduler:
    of_all = len(sources)
  for start in range(0, len(sources), of_all):
    part = sources[start : start + of_all]
    with workers.mapper(place, len(part), progress=progress) as mapped:
      if start == 0 and any(quantisation.INT8 in m for m in missing.values()):
        list(mapped(read, [images]))
      wanted = [{of: targets[one][of] for of in missing[one]} for one in part]
      yield from mapped(work, part, wanted)


def _read_calibration(
  shards: Sequence[str],
  number: int,
  seed: int,
  preprocessing_name: str,
  path: str,
) -> None:
  """Puts the images where all processes find them."""
  images = calibration.read(shards, number, seed, preprocessing_name)
  if len(images) < number:
    logging.info('there are %d images to calibrate on', len(images))
  np.save(path, images)


def _quantise(
  source: member_paths.Checkpoint,
  targets: Mapping[str, member_paths.Checkpoint],
  *,
  records: image_records.ImageRecords,
  images: str,
  batch_size: int,
  hows: Mapping[str, Mapping[str, object]],
) -> int:
  """Writes a member's networks, by quantisation; returns their number."""
  calibrated = quantisation.INT8 in targets
  networks = quantisation.quantise(
    source,
    list(targets),
    records,
    np.load(images, mmap_mode='r') if calibrated else None,
    batch_size,
  )
  for of, network in networks.items():
    write(source, targets[of], network, hows[of], records)
  return len(networks)


def write(
  source: member_paths.Checkpoint,
  target: member_paths.Checkpoint,
  network: bytes,
  how: Mapping[str, object],
  records: image_records.ImageRecords,
) -> None:
  """Writes a network, its description first: what is there has one."""
  description = network_files.Description(
    image_size=records.image_size,
    scale=1.0,
    mean=(0.0, 0.0, 0.0),
    deviation=(1.0, 1.0, 1.0),
    channels=network_files.RGB,
    output=network_files.LOGITS,
    num_classes=records.num_classes,
    made_from=quantised.made_from(
      source, network, how, member_checks.training_of(source).data
    ),
  )
  network_files.write(target.described_by, description)
  storage.write_complete(target.completed_by, network)


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(
    f,
    {
      'ckpt_dir': 'checkpoints',
      'data_directory': 'data',
      'output_dir': 'checkpoints',
    },
  )
  run(
    f.ckpt_dir,
    f.data_directory,
    f.output_dir,
    f.quantisation,
    f.pruning_method,
    f.calibration_images,
    f.calibration_batch_size,
    f.seed,
    f.preprocessing,
    workers.Place(f.num_processes, f.scheduler),
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
