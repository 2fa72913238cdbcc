"""Writes docs/tables.md: what every CSV holds, from the schemas themselves.

  python -m tests.make_tables

A test says when the page is out of date.
"""

import pathlib

from utils import csvs, tables

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'tables.md'
_KINDS = {'int': 'whole number', 'float': 'number', 'text': 'text'}
# In the order in which a study makes them.
ORDER = (
  tables.MEMBER_FILES,
  tables.PREDICTIONS,
  tables.ORIGINAL_PREDICTIONS,
  tables.MODAL_LABELS,
  tables.PIE_NULL,
  tables.PIE_STATISTICS,
  tables.CLASS_METRICS,
  tables.CLASSES,
  tables.GROUPS,
  tables.T_STATISTIC,
  tables.CLASS_IMPACT_SUMMARY,
  tables.ROBUSTNESS,
  tables.ROBUSTNESS_SUMMARY,
  tables.COSTS,
  tables.CORRUPTED_COSTS,
  tables.CLASS_COSTS,
  tables.GROUP_COSTS,
  tables.NEWLY_WRONG,
  tables.RELIABILITY,
  tables.GAINS,
  tables.LAYER_GAINS,
  tables.SPEED,
  tables.SUSPECTS,
  tables.VERDICTS,
  tables.HEADLINE,
  tables.ANNOTATIONS,
  tables.ANNOTATION_SUMMARY,
  tables.PEOPLE,
  tables.MEMBERS_NEEDED,
  tables.SUBSET_TESTS,
  tables.STUDY_FILES,
)
_HEAD = """\
# The CSVs

<!-- Written by `python -m tests.make_tables` from utils/tables.py. -->

The scripts meet in these tables. Each is spelled once, in `utils/tables.py`,
and checked against that both when it is written and when it is read
(`utils/csvs.py`); what does not pass is an error that names the file, the
column and the line. A table from elsewhere is as good as ours when it passes;
see [your own data](your_data.md) for predictions of any framework.

In a study `<results>` is the folder `results`, `<pie>` the folder `pie`,
`<robustness>` the folder `results/robustness`; `<data set>` is the name in
`data/image_records.json`, `<mode>` the split, `eval` or `train`; a `<member>`
is its path with `_` for `/`.

A file ends in a line break; one that does not has lost its end. Predictions may
be compressed, under names that end in `.csv.gz`. An *optional*
column may lack in a table from elsewhere. A cell *may be empty* where there is
no answer. Fractions, probabilities and shares lie in [0, 1]. Class ids start
at 0.

Beside each folder of results a `<script>.run.json` records the command, flags,
versions and inputs that made it. Finished results are skipped when a command is
run again; if it has other settings now (precision, say), or inputs have changed
(a network was trained again), it says so and stops, and nothing is mixed.

Paths may be in a bucket (`gs://...`), which TensorFlow reads and writes; with
gcsfs installed and `EPATH_USE_TF=false`, the scripts that only read and write
tables do without TensorFlow.
"""


def _number(bound: float) -> str:
  return f'{bound:g}'


def _range(column: csvs.Column) -> str:
  low, high = column.low, column.high
  if low is not None and high is not None:
    text = f'{_number(low)} to {_number(high)}'
  elif low is not None:
    text = f'from {_number(low)} on'
  elif high is not None:
    text = f'up to {_number(high)}'
  else:
    text = ''
  notes = [text] if text else []
  if column.nullable:
    notes.append('may be empty')
  if column.default is not None:
    notes.append('optional')
  return ', '.join(notes)


def _cell(text: str) -> str:
  return text.replace('|', '\\|').replace('<', '&lt;')


def _anchor(name: str) -> str:
  return name.lower().replace(' ', '-')


def _table(table: csvs.Table) -> list[str]:
  written_by = table.written_by
  if ' ' not in written_by:
    written_by = f'`{written_by}`'
  file = f'`{table.file}`' if '<' in table.file else table.file
  key = ', '.join(f'`{name}`' for name in table.key)
  lines = [
    f'\n## {table.name}\n',
    f'A row is {table.row}.\n',
    f'- file: {file}',
    f'- written by: {written_by}',
    f'- key: {key}',
  ]
  if table.sort_by and table.sort_by != table.key:
    order = ', '.join(f'`{name}`' for name in table.sort_by)
    lines.append(f'- rows are in the order of: {order}')
  lines += ['\n| column | type | range | meaning |', '|---|---|---|---|']
  lines += [
    f'| `{column.name}` | {_KINDS[column.kind]} | {_range(column)} '
    f'| {_cell(column.meaning)} |'
    for column in table.columns
  ]
  return lines


def page() -> str:
  """The page, in Markdown."""
  lines = ['\n| table | a row is | written by |', '|---|---|---|']
  for table in ORDER:
    lines.append(
      f'| [{table.name}](#{_anchor(table.name)}) | {_cell(table.row)} '
      f'| {table.written_by} |'
    )
  for table in ORDER:
    lines += _table(table)
  return _HEAD + '\n'.join(lines) + '\n'


if __name__ == '__main__':
  PAGE.parent.mkdir(exist_ok=True)
  PAGE.write_text(page())
