"""Checks every file of a study: complete, unchanged, up to date, made by whom?

Reads all that lies in the folder of a study, and prints how many files are
  unchanged      as they were written, by a checksum: tables, shards, networks,
                 figures, the page
  unverified     there, with nothing to compare with: predictions and tables
                 from elsewhere, say
  being written  by a process that runs
and, with the names of some, which are
  damaged        changed, cut short or missing
  stale          made from inputs that changed, came or went since; the command
                 that makes them anew stands beside them
  unfinished     a command began and did not come to its end; the same goes on
  leftover       hidden files of processes that were killed
  orphan         of a network that is gone, or a shard that nothing declares
then the commands that made it all, by the records beside the results.

A study may have been moved, or may lack data and networks that were moved
elsewhere: inputs that lie nowhere are counted, and nothing is said of what was
made from them. Predictions from elsewhere have no record, and are unverified.

  python -m pie_dataset_gen.check_study --study=runs/digits

Exit code 0 if all is well, 1 if something is wrong. --remove takes away what is
wrong and makes no hours of work anew: leftovers, and stale results and orphans
but for data and networks. Then the commands that were printed, or ./run.sh,
make the results again. --output_file writes a row for each file (utils/
tables.py: STUDY_FILES). Networks and shards are read from end to end, which
takes as long as the disk; --quick compares their sizes only.
"""

import collections
import sys

import pandas as pd
from absl import flags
from etils import epath

from pie_dataset_gen import study_files
from utils import command_line, csvs, tables

# Of files that are wrong alike.
_NAMED = 5


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_string('study', '', 'Folder of the study.')
  flags.DEFINE_boolean(
    'quick', False, 'Whether networks and shards are left unread.'
  )
  flags.DEFINE_list(
    'remove',
    [],
    'What is removed: some of leftover, orphan, stale. Empty: nothing.',
  )
  flags.DEFINE_string(
    'output_file', '', 'CSV with a row for each file. Empty: none is written.'
  )


def run(
  study: str,
  *,
  quick: bool = False,
  remove: tuple[str, ...] = (),
  output_file: str = '',
) -> bool:
  """Checks a study, and prints what there is to say.

  Args:
    study: its folder.
    quick: whether networks and shards are left unread.
    remove: states of files that are removed.
    output_file: CSV with a row for each file; '' for none.

  Returns:
    Whether all is well, but for what was removed.

  Raises:
    FileNotFoundError: there is no such study.
    ValueError: a state is none that is removed.
  """
  unknown = sorted(set(remove) - set(study_files.REMOVABLE))
  if unknown:
    raise ValueError(
      f'--remove is {unknown}, wanted some of {list(study_files.REMOVABLE)}'
    )
  looked_at = study_files.Study(study, quick)
  rows = looked_at.look()
  if output_file:
    csvs.write(tables.STUDY_FILES, rows, output_file)
  removable = rows.apply(study_files.may_be_removed, axis=1)
  removed = rows['state'].isin(remove) & removable
  for file in rows.loc[removed, 'file']:
    epath.Path(looked_at.path(file)).unlink(missing_ok=True)
  _say(study, rows, removed)
  commands = _commands(looked_at, rows)
  if commands:
    print('\nmade by')
    print('\n'.join(f'  {command}' for command in commands))
  wrong = rows['state'].isin(study_files.WRONG) & ~removed
  print(
    f'\n{study}: {int(wrong.sum())} of {len(rows)} files are wrong'
    if wrong.any()
    else f'\n{study}: all is well'
  )
  return not wrong.any()


def _say(study: str, rows: pd.DataFrame, removed: pd.Series) -> None:
  total = rows['bytes'].sum() / 2**20
  print(f'{study}: {len(rows)} files, {total:.1f} MiB')
  for state in (*study_files.WELL, *study_files.WRONG):
    of_state = rows[rows['state'] == state]
    if of_state.empty:
      continue
    kinds = collections.Counter(of_state['kind']).most_common()
    said = ', '.join(f'{number} {kind}' for kind, number in kinds)
    print(f'  {state:14}{len(of_state):7}  {said}')
    if state in study_files.WELL:
      continue
    for (remark, command), alike in of_state.groupby(
      ['remark', 'command'], sort=False
    ):
      gone = int(removed[alike.index].sum())
      print(f'    {remark}{f" (removed: {gone})" if gone else ""}')
      for file in alike['file'].head(_NAMED):
        print(f'      {file}')
      if len(alike) > _NAMED:
        print(f'      and {len(alike) - _NAMED} more')
      if command and state != study_files.LEFTOVER:
        print(f'      made anew by: {command}')


def _commands(study: study_files.Study, rows: pd.DataFrame) -> list[str]:
  """The commands that made the files, in the order in which they finished."""
  made = rows[rows['kind'] != 'record']['command'].value_counts()
  found: dict[str, tuple[str, int]] = {}
  for record in study.records.all:
    number, finished = record.inputs_elsewhere, record.finished
    former = found.get(record.command, ('', 0))
    found[record.command] = max(former[0], finished), former[1] + number
  lines = []
  for command, (finished, elsewhere) in sorted(
    found.items(), key=lambda item: item[1]
  ):
    where = f', {elsewhere} inputs lie elsewhere' if elsewhere else ''
    if number := made.get(command, 0):
      lines.append(f'{command}\n    {number} files, {finished}{where}')
  if number := made.get('', 0):
    lines.append(f'(no record: {number} files)')
  return lines


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  if not f.study:
    raise ValueError('--study is missing: wanted the folder of a study')
  is_well = run(
    f.study,
    quick=f.quick,
    remove=tuple(f.remove),
    output_file=f.output_file,
  )
  if not is_well:
    sys.exit(1)


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
