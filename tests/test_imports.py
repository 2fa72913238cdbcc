"""The arrows of the architecture, read off the source: who may import whom.

tests -> scripts -> parts of the same room -> machinery -> science ->
agreements -> third party.
"""

import ast
import fnmatch
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = (
  'save_checkpoint',
  'per_class_accuracy',
  'pie_dataset_gen',
  'robustness_tests',
)
# From the bottom: a module imports none that stands in a higher row.
UTILS = (
  (
    'cluster',
    'command_line',
    'compressed',
    'csvs',
    'digests',
    'image_records',
    'keras_archive',
    'member_paths',
    'network_files',
    'paths',
    'provenance',
    'quantised',
    'storage',
    'table_digests',
    'tables',
    'tensorflow_start',
    'workers',
  ),
  (
    'class_level_metrics',
    'class_names',
    'member_checks',
    'membership',
    'plausibility',
    'populations',
    'prediction_files',
  ),
  (
    'bundle_index',
    'checkpoints',
    'data_input',
    'devices',
    'folded_resnet',
    'framework_networks',
    'inference',
    'preprocessing',
    'resnet_model',
    'shard_files',
    'tfrecords',
  ),
)
LEVELS = {name: level for level, row in enumerate(UTILS) for name in row}
TENSORFLOW = {
  'ai_edge_litert',
  'keras',
  'tensorflow',
  'tensorflow_model_optimization',
  'tf_keras',
}
# Scripts that start in a second, since they need no TensorFlow to work.
TENSORFLOW_FREE = (
  'pie_dataset_gen.aggregate_predictions',
  'pie_dataset_gen.compare_with_people',
  'pie_dataset_gen.headline_table',
  'pie_dataset_gen.how_many_members',
  'pie_dataset_gen.measure_corrupted_costs',
  'pie_dataset_gen.measure_costs',
  'pie_dataset_gen.rank_suspects',
  'pie_dataset_gen.summarize_annotations',
  'per_class_accuracy.aggregate_ckpt_metrics',
  'per_class_accuracy.gen_tstatistic',
  'robustness_tests.summarize',
  '*.plot_*',
)


def files():
  return sorted(
    str(path.relative_to(ROOT))
    for room in (*ROOMS, 'utils')
    for path in (ROOT / room).rglob('*.py')
    if path.name != '__init__.py'
  )


@functools.cache
def tree(file):
  return ast.parse((ROOT / file).read_text(), file)


def module(file):
  return file.removesuffix('.py').replace('/', '.')


def is_script(file):
  return any(
    isinstance(node, ast.FunctionDef) and node.name == 'define_flags'
    for node in tree(file).body
  )


@functools.cache
def imports(file, when_imported_only=False):
  """Names of the modules that a file imports, ours with their packages."""
  found = set()
  nodes = [tree(file)]
  while nodes:
    node = nodes.pop()
    if isinstance(node, ast.Import):
      found.update(name.name for name in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{file}:{node.lineno}: a relative import'
      for name in node.names:
        whole = f'{node.module}.{name.name}'
        ours = (ROOT / f'{whole.replace(".", "/")}.py').exists()
        found.add(whole if ours else node.module)
    # What is imported lazily loads when it is used.
    deferred = isinstance(node, (ast.FunctionDef, ast.Lambda)) or (
      isinstance(node, ast.With)
      and ast.unparse(node.items[0].context_expr) == 'epy.lazy_imports()'
    )
    if not (deferred and when_imported_only):
      nodes.extend(ast.iter_child_nodes(node))
  return found


def ours(names):
  """Files of the project among the modules."""
  candidates = (f'{name.replace(".", "/")}.py' for name in names)
  return sorted(name for name in candidates if (ROOT / name).exists())


def packages(file):
  return {name.split('.')[0] for name in imports(file)}


def test_utils_has_the_modules_that_were_agreed_on():
  assert {name for name in files() if name.startswith('utils/')} <= {
    f'utils/{name}.py' for name in LEVELS
  }


@pytest.mark.parametrize('file', files())
def test_arrows_point_downward(file):
  room, name = file.removesuffix('.py').split('/')
  for other in ours(imports(file)):
    other_room, other_name = other.removesuffix('.py').split('/')
    if room == 'utils':
      assert other_room == 'utils', f'{file} imports {other}: a room'
      assert LEVELS[other_name] <= LEVELS[name], f'{file} imports {other}'
    else:
      assert other_room in ('utils', room), f'{file} imports another room'
      assert not is_script(other), f'{file} imports the script {other}'
  assert 'tests' not in packages(file)
  if room == 'utils' and LEVELS[name] < LEVELS['tfrecords']:
    assert not packages(file) & TENSORFLOW, f'{file} imports TensorFlow'


def test_one_file_knows_the_pruning_library():
  knowing = [
    file
    for file in files()
    if 'tensorflow_model_optimization' in packages(file)
  ]
  assert knowing == ['save_checkpoint/pruning.py']


def tensorflow_free():
  return [
    file
    for file in files()
    if any(fnmatch.fnmatch(module(file), p) for p in TENSORFLOW_FREE)
  ]


@pytest.mark.parametrize('file', tensorflow_free())
def test_statistics_import_no_tensorflow_even_indirectly(file):
  way = {file: [file]}
  left = [file]
  while left:
    current = left.pop()
    names = imports(current, when_imported_only=True)
    assert not {name.split('.')[0] for name in names} & TENSORFLOW, (
      f'TensorFlow is imported by {" -> ".join(way[current])}'
    )
    for other in ours(names):
      if other not in way:
        way[other] = [*way[current], other]
        left.append(other)


def test_statistics_load_no_tensorflow_when_they_are_run():
  """As above, third parties included; and their flags do not collide."""
  modules = [module(file) for file in tensorflow_free()]
  script = (
    f'import {", ".join(modules)}, sys\n'
    'loaded = {name.split(".")[0] for name in sys.modules}\n'
    f'sys.exit(", ".join(loaded & {TENSORFLOW}) or 0)'
  )
  result = subprocess.run(
    [sys.executable, '-c', script],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('file', files())
def test_flags_are_defined_in_define_flags_only(file):
  inside = {
    id(node)
    for function in tree(file).body
    if isinstance(function, ast.FunctionDef) and function.name == 'define_flags'
    for node in ast.walk(function)
  }
  for node in ast.walk(tree(file)):
    if file == 'utils/command_line.py':
      continue  # --study, when a script's define_flags calls for it
    if isinstance(node, ast.Attribute) and node.attr.startswith('DEFINE_'):
      assert id(node) in inside, f'{file}:{node.lineno}: a flag on import'


@pytest.mark.parametrize('file', [f for f in files() if is_script(f)])
def test_scripts_have_one_shape(file):
  """A manual page, define_flags, run, main and the guard; flags end in main."""
  functions = {
    node.name: node
    for node in tree(file).body
    if isinstance(node, ast.FunctionDef)
  }
  assert f'python -m {module(file)}' in (ast.get_docstring(tree(file)) or '')
  assert {'define_flags', 'run', 'main'} <= set(functions)
  assert ast.unparse(tree(file).body[-1]) == (
    "if __name__ == '__main__':\n"
    '    command_line.run_script(main, define_flags)'
  )
  for name, function in functions.items():
    if name not in ('main', 'define_flags'):
      reads = [
        node
        for node in ast.walk(function)
        if 'FLAGS' in (getattr(node, 'id', ''), getattr(node, 'attr', ''))
      ]
      assert not reads, f'{file}: {name} reads flags, which only main may'


@pytest.mark.parametrize(
  'file', [f for f in files() if not f.startswith('utils/')]
)
def test_rooms_reach_files_through_utils(file):
  """Not by `open` or os.path, which know no bucket."""
  assert not packages(file) & {'glob', 'pathlib', 'shutil', 'tempfile'}
  for node in ast.walk(tree(file)):
    if isinstance(node, ast.Call):
      assert ast.unparse(node.func) not in ('open', 'io.open', 'os.open'), (
        f'{file}:{node.lineno} opens a file'
      )
    if isinstance(node, ast.Attribute):
      assert ast.unparse(node) not in (
        'os.path',
        'os.listdir',
        'os.makedirs',
        'os.mkdir',
        'os.remove',
        'os.rename',
        'os.replace',
        'os.scandir',
        'os.walk',
      ), f'{file}:{node.lineno} goes past utils/paths'


@pytest.mark.parametrize('file', files())
def test_nothing_unpickles(file):
  """A file from elsewhere could run code."""
  assert not packages(file) & {'pickle', 'cloudpickle', 'dill', 'joblib'}
  assert 'allow_pickle' not in (ROOT / file).read_text()


@pytest.mark.parametrize('file', files())
def test_no_junk_drawers(file):
  assert pathlib.Path(file).stem not in (
    'common',
    'constants',
    'helpers',
    'misc',
    'util',
    'utils',
  )
