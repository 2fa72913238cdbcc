"""The commands that made what the page of PIEs shows, to be run again."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from utils import member_paths, provenance


def _records(folders: Sequence[str]) -> Iterator[Mapping[str, Any]]:
  for folder in folders:
    for path in sorted(epath.Path(folder).glob('*.run.json')):
      yield provenance.read(str(path))


def find(folders: Sequence[str]) -> list[dict[str, object]]:
  """What the records beside results say of the commands that made them.

  Members that one command trained have a record each; the last one counts.

  Returns:
    Command and what else is told of it, in the order in which they finished.
  """
  commands: dict[str, dict] = {}
  for record in _records(folders):
    if not record.get('finished') or 'command' not in record:
      continue  # settings of a member, or a command that has not finished
    found = describe(record)
    former = commands.setdefault(str(found['command']), found)
    commands[str(found['command'])] = max(
      former, found, key=lambda of: of['finished']
    )
  return sorted(commands.values(), key=lambda of: of['finished'])


def describe(record: Mapping[str, Any]) -> dict[str, object]:
  """What the page says of a command, by its record."""
  variables = record.get('environment', {}).items()
  return {
    'command': provenance.command(record),
    'variables': ' '.join(f'{k}={shlex.quote(v)}' for k, v in variables),
    'flags': shlex.join(_typed(record.get('flags', {}))),
    'finished': record.get('finished', ''),
    'python': record['python'],
    'packages': record['packages'],
  }


def _typed(values: Mapping[str, Any]) -> list[str]:
  """Flags and their values, those by default too, as one types them."""
  words = []
  for name, value in sorted(values.items()):
    if isinstance(value, bool):
      words.append(f'--{name}' if value else f'--no{name}')
    elif isinstance(value, list):
      words.append(f'--{name}={",".join(map(str, value))}')
    elif value is not None:
      words.append(f'--{name}={value}')
  return words


def read_from(folders: Sequence[str], script: str) -> list[str]:
  """Folders of data that a script's records beside its results name."""
  found: dict[str, None] = {}
  for record in _records(folders):
    if record.get('script') == script:
      where = record.get('flags', {}).get('data_directory')
      if isinstance(where, str) and where and epath.Path(where).is_dir():
        found[where] = None
  return list(found)


def trained_in(ckpt_dir: str | Sequence[str]) -> list[str]:
  """Folders of members, and that of the whole training, above them."""
  folders: dict[str, None] = {}
  for checkpoint in member_paths.find(ckpt_dir):
    folder = epath.Path(checkpoint.prefix).parent
    depth = len(checkpoint.member.folder.split('/'))
    folders[str(folder)] = None
    if len(folder.parents) >= depth - 1:
      folders[str(folder.parents[depth - 2])] = None
  return list(folders)
