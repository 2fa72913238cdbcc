"""Images of the page that lie in a folder or a tar, found by their keys.

The file of an image is the one whose path below the folder, or within the tar,
is the image key, with or without its ending (.jpg, .jpeg or .png, large or
small). Keys are looked up among the names that are there; none is used as a
path.
"""

import collections
import tarfile
from collections.abc import Collection, Iterator

from etils import epath

from pie_dataset_gen import gallery_images
from utils import storage

_ENDINGS = ('.jpg', '.jpeg', '.png')
# Of what is there or missing, in a message.
_NAMED = 3


def read(
  source: str, keys: Collection[str]
) -> Iterator[gallery_images.Example]:
  """Yields the images that are there; of the others nothing is said.

  Args:
    source: folder, or uncompressed tar.
    keys: of the wanted images.

  Raises:
    FileNotFoundError: there is no such folder or tar, or none of the images.
    ValueError: it is no tar, or several files are of one key.
  """
  if epath.Path(source).is_dir():
    yield from _read_folder(source, keys)
    return
  if not storage.exists(source):
    raise FileNotFoundError(
      f'there is no folder or tar {source}{storage.nearest(source)}'
    )
  with epath.Path(source).open('rb') as file:
    try:
      with tarfile.open(fileobj=file, mode='r:') as tar:
        yield from _read_tar(source, tar, keys)
    except tarfile.TarError as error:
      raise ValueError(
        f'{source} is not an uncompressed tar: {error}'
      ) from None


def _read_folder(source, keys):
  # As text: the path of each of a million files costs more than its name.
  start = len(str(epath.Path(source))) + 1
  names = [str(path)[start:] for path in storage.below(epath.Path(source))]
  for key, name in _find(source, names, keys).items():
    path = storage.within(source, name)
    yield gallery_images.Example(key, epath.Path(path).read_bytes(), None, path)


def _read_tar(source, tar, keys):
  members = {m.name.removeprefix('./'): m for m in tar if m.isfile()}
  for key, name in _find(source, list(members), keys).items():
    stored = tar.extractfile(members[name]).read()
    where = f'{source}, {name}'
    yield gallery_images.Example(key, stored, None, where)


def _find(
  source: str, names: Collection[str], keys: Collection[str]
) -> dict[str, str]:
  """Key -> the name of its file, for those that are there."""
  by_stem = collections.defaultdict(list)
  for name in names:
    stem, _, ending = name.rpartition('.')
    if f'.{ending.lower()}' in _ENDINGS and stem in keys:
      by_stem[stem].append(name)
  whole = set(names)
  found = {}
  for key in sorted(keys):
    named = [key] if key in whole else by_stem.get(key, [])
    if len(named) > 1:
      raise ValueError(
        f'{source} holds {sorted(named)}, wanted one file for the image {key!r}'
      )
    if named:
      found[key] = named[0]
  if keys and not found:
    raise FileNotFoundError(
      f'{source} holds none of the {len(keys)} images, for example '
      f'{min(keys)!r}: wanted files with these paths in it, with or without '
      f'{", ".join(_ENDINGS)}; it holds {sorted(names)[:_NAMED]}...'
    )
  return found
