"""What documents say can be typed and found: commands, flags, links, files."""

import ast
import functools
import importlib
import os
import pathlib
import re
import shlex
import subprocess

import pytest
from absl import flags

from tests import make_tables
from utils import csvs, tables

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = (
  'save_checkpoint',
  'per_class_accuracy',
  'pie_dataset_gen',
  'robustness_tests',
)
README = ROOT / 'README.md'
PAGES = [
  README,
  ROOT / 'tests' / 'README.md',
  *sorted((ROOT / 'docs').glob('*.md')),
]
# A module of ours and what follows it, to the end of the command.
COMMAND = re.compile(
  rf'\bpython3? -m ((?:tests|{"|".join(ROOMS)})(?:\.\w+)+)([^\n`|;&#]*)'
)


def relative(path):
  return str(path.relative_to(ROOT))


def texts():
  """Every place that tells a person what to type -> what it says."""
  found = {relative(path): path.read_text() for path in PAGES}
  for room in (*ROOMS, 'utils', 'tests', 'tests/benchmarks'):
    for path in sorted((ROOT / room).glob('*.py')):
      docstring = ast.get_docstring(ast.parse(path.read_text()))
      found[relative(path)] = docstring or ''
  head = re.match('(#.*\n)+', (ROOT / 'run.sh').read_text())[0]
  found['run.sh'] = re.sub('(?m)^# ?', '', head)
  return found


@functools.cache
def dry_run():
  """The commands of the chain, a line each, as run.sh prints them."""
  # Without this run.sh would take the word for none of its own, and start.
  assert '--dry_run' in (ROOT / 'run.sh').read_text()
  variables = ('STUDY', 'REPLICATES', 'SPARSITIES', 'EPOCHS', 'STEPS')
  return subprocess.run(
    ['bash', 'run.sh', '--dry_run'],
    cwd=ROOT,
    env={k: v for k, v in os.environ.items() if k not in variables},
    check=True,
    capture_output=True,
    text=True,
  ).stdout.splitlines()


def joined(text):
  """A text whose lines do not go on after a backslash."""
  return re.sub(r' *\\\n *', ' ', text)


def commands(text):
  """(module, flags) of each command in a text, variables of a shell filled in.

  What may be left out stands in brackets, and counts.
  """
  text = re.sub(r'\$\(\([^()]*\)\)', '1', joined(text))
  text = re.sub(r'\$\{[^}]*\}+', '0.5', text)
  text = re.sub(r'\$\w+', 'some', text)
  for module, rest in COMMAND.findall(text):
    words = shlex.split(re.sub(r'[][]|<[^>]*>', ' ', rest))
    yield module, tuple(word for word in words if word.startswith('--'))


def all_commands():
  """Each command once, with the first place that has it."""
  found = {}
  for where, text in texts().items():
    for command in commands(text):
      found.setdefault(command, where)
  return [
    pytest.param(*command, id=f'{where}-{command[0]}-{number}')
    for number, (command, where) in enumerate(found.items())
  ]


def flags_of(module, monkeypatch):
  """The flags that a script defines when it is the program."""
  own = flags.FlagValues()
  for name in dir(flags):
    if name.startswith('DEFINE_'):
      define = functools.partial(getattr(flags, name), flag_values=own)
      monkeypatch.setattr(flags, name, define)
  importlib.import_module(module).define_flags()
  return own


def faults(module, arguments, monkeypatch):
  """What is wrong with a command, or ''."""
  file = ROOT / f'{module.replace(".", "/")}.py'
  if not file.exists():
    return f'there is no {module}'
  arguments = [word for word in arguments if word != '--help']
  if module.startswith('tests.'):
    text = file.read_text()
    names = [word[2:].split('=')[0] for word in arguments]
    unknown = [name for name in names if f"'{name}'" not in text]
    return f'{module} has no {unknown}' if unknown else ''
  try:
    flags_of(module, monkeypatch)([module, *arguments])
  except flags.Error as error:
    return str(error)
  return ''


@pytest.mark.parametrize(('module', 'arguments'), all_commands())
def test_every_command_has_its_flags(module, arguments, monkeypatch):
  assert not faults(module, arguments, monkeypatch)


def test_the_chain_has_its_flags(monkeypatch):
  assert dry_run()
  for line in dry_run():
    ((module, arguments),) = commands(line)
    assert any(word.startswith('--study=') for word in arguments)
    assert not faults(module, arguments, monkeypatch)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('python -m pie_dataset_gen.no_script --mode=eval', 'there is no'),
    ('python -m pie_dataset_gen.gallery --predictions_file=a', 'Unknown'),
    ('python -m pie_dataset_gen.gallery \\\n  --mode=test', 'mode'),
    ('python -m pie_dataset_gen.gallery --others_per_class=$((I / 2))', ''),
    ('python -m pie_dataset_gen.gallery --image_size=large', 'image_size'),
    ('python -m pie_dataset_gen.summarize_annotations', 'annotations'),
    ('`python -m tests.take_pictures` [--folder=a]', ''),
    ('python -m tests.take_pictures [--folder=a]', 'folder'),
  ],
)
def test_what_is_wrong_in_a_command_is_found(text, message, monkeypatch):
  ((module, arguments),) = commands(text)
  found = faults(module, arguments, monkeypatch)
  assert message in found
  assert bool(message) == bool(found)


def test_every_script_is_documented():
  """In its own docstring, and in the page of commands."""
  page = (ROOT / 'docs' / 'commands.md').read_text()
  for file, text in texts().items():
    if '\ndef define_flags' in (ROOT / file).read_text():
      module = file.removesuffix('.py').replace('/', '.')
      if not file.startswith(('tests/', 'utils/')):
        assert module in dict(commands(text)), file
        assert module in dict(commands(page)), file


def test_the_page_of_commands_is_the_chain():
  page = (ROOT / 'docs' / 'commands.md').read_text()
  blocks = re.findall(r'(?ms)^```bash\n(.*?)^```$', page)
  lines = joined('\n'.join(blocks)).splitlines()
  assert [line for line in lines if line.startswith('python')] == dry_run()


def test_the_rest_of_the_chain_begins_where_documents_say():
  """`./run.sh --dry_run | tail -n +3` is what follows the commands before."""
  pattern = re.compile(r'run\.sh --dry_run \| tail -n \+(\d+)')
  found = 0
  for text in texts().values():
    for match in pattern.finditer(text):
      *_, (module, _) = commands(text[: match.start()])
      (before, _), *_ = commands(dry_run()[int(match[1]) - 2])
      assert module == before
      found += 1
  assert found >= 2


@pytest.mark.parametrize('path', PAGES, ids=relative)
def test_links_and_files_are_there(path):
  text = path.read_text()
  for target in re.findall(r'\]\(([^)\s]+)\)', text):
    if target.startswith('http'):
      continue
    file, _, anchor = target.partition('#')
    page = (path.parent / file) if file else path
    assert page.exists(), f'{target} is not there'
    if anchor:
      headings = re.findall('(?m)^#+ (.*)$', page.read_text())
      assert anchor in map(slug, headings), target
  for file in re.findall(r'`((?:tests|utils|docs|\w+)/[\w/]+\.\w+)`', text):
    if file.split('/')[0] in (*ROOMS, 'tests', 'utils', 'docs'):
      assert (ROOT / file).exists(), f'{file} is not there'
  for file in re.findall(r'\btest_[\w*]+\.py\b', text):
    assert list((ROOT / 'tests').glob(file)), f'{file} is not there'


def slug(heading):
  """What GitHub calls a heading in links."""
  return re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-')


def test_the_front_door_is_short():
  lines = README.read_text().splitlines()
  assert len(lines) <= 140
  assert max(map(len, lines)) <= 100


@pytest.mark.parametrize('path', PAGES, ids=relative)
def test_running_text_has_at_most_100_columns(path):
  """Tables, which cannot be broken, and lists of columns apart."""
  for line in path.read_text().splitlines():
    is_long = line.startswith(('|', '- ', '    ')) or ' ' not in line
    assert len(line) <= 100 or is_long, line


def test_the_page_of_tables_is_what_the_schemas_say():
  assert make_tables.PAGE.read_text() == make_tables.page(), (
    'make it again: python -m tests.make_tables'
  )


def test_the_page_of_tables_has_all_of_them():
  schemas = [v for v in vars(tables).values() if isinstance(v, csvs.Table)]
  assert sorted(t.name for t in schemas) == sorted(
    t.name for t in make_tables.ORDER
  )
