"""Quantised members: what is in them, what is refused, and how they predict."""

import json
import shutil

import numpy as np
import pytest

from save_checkpoint import calibration, quantisation, quantise_checkpoints
from tests.test_inference import OPTIONS, write_member
from utils import (
  checkpoints,
  data_input,
  devices,
  folded_resnet,
  framework_networks,
  image_records,
  inference,
  member_checks,
  member_paths,
  network_files,
  resnet_model,
  tfrecords,
)

INT8, FLOAT32 = quantisation.INT8, quantisation.FLOAT32


def quantise(folder, of=(INT8,), **options):
  return quantise_checkpoints.run(
    f'{folder}/exp',
    f'{folder}/data',
    f'{folder}/exp',
    of,
    calibration_images=8,
    **options,
  )


def tflite_files(folder):
  return {
    str(path.relative_to(folder)): path
    for path in sorted(folder.rglob('*.tflite'))
  }


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A dense and a pruned member, quantised; some filters have no weights."""
  folder = tmp_path_factory.mktemp('study')
  data_input.synthetic_data_set(f'{folder}/data')
  write_member(folder, 'baseline', 0.0, 0)
  pruned = write_member(folder, 'threshold', 0.9, 0)
  network = checkpoints.read(pruned.prefix)
  for conv in resnet_model.conv_layers(network.architecture):
    mask = network.values[f'{resnet_model.SCOPE}{conv.name}/mask']
    mask[..., ::2] = 0
  checkpoints.write(pruned.prefix, network)
  quantise(folder, quantisation.QUANTISATIONS)
  return folder


@pytest.fixture
def study(finished, tmp_path):
  return shutil.copytree(finished, tmp_path / 'copy')


def scores_of(folder, batch_size=8):
  """Scores by the word for the level, of the images of the eval split."""
  shards = image_records.find_shards(f'{folder}/data', 'eval')
  records = tfrecords.describe(shards)
  reader = data_input.OrderedReader(
    records, tfrecords.detect(shards), 'legacy', batch_size
  )
  strategy = devices.strategy()
  openers = {
    kind: of('float32', batch_size, strategy)
    for kind, of in (
      ('bundle', folded_resnet.Opener),
      ('tflite', framework_networks.TfliteOpener),
    )
  }
  batches = [images for *_, images in reader.read(shards[0], records)]
  found = {}
  for checkpoint in member_paths.find(f'{folder}/exp'):
    network = openers[checkpoint.kind].open(checkpoint)
    found[checkpoint.member.level.words] = np.concatenate(
      [network.scores(images, records).numpy() for images in batches]
    )
  return found


def cosine(one, other):
  return (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())


def test_networks_predict_as_their_sources_do(finished):
  """Also where filters have biases and no weights, as pruning leaves them."""
  scores = scores_of(finished)
  for of, wanted in (
    (FLOAT32, 0.999999),
    (quantisation.FLOAT16, 0.9999),
    (quantisation.DYNAMIC_INT8, 0.995),
    (INT8, 0.99),
  ):
    for source, words in (('dense', of), ('threshold 0.9', f'threshold_{of}')):
      words += ' 0.9' * (source != 'dense')
      assert cosine(scores[source], scores[words]) > wanted, words
  exact = scores['dense']
  assert (scores[FLOAT32].argmax(1) == exact.argmax(1)).all()
  assert not np.array_equal(scores[INT8], exact)
  sizes = {
    level: sum(
      path.stat().st_size for path in finished.glob(f'exp/{level}/**/*.tflite')
    )
    for level in quantisation.QUANTISATIONS
  }
  assert sizes[FLOAT32] > 1.9 * sizes['float16'] > 1.5 * sizes[INT8]


def test_the_size_of_batches_changes_no_digit(finished):
  first, second = scores_of(finished, 8), scores_of(finished, 3)
  for words, scores in first.items():
    if 'int8' in words or 'float' in words:
      assert np.array_equal(scores, second[words]), words


def test_what_is_finished_is_kept_and_what_is_missing_is_made_again(study):
  before = {n: p.read_bytes() for n, p in tflite_files(study).items()}
  times = {p: p.stat().st_mtime_ns for p in tflite_files(study).values()}
  path = study / f'exp/{INT8}/0.0/0/0/0/0/model.ckpt-10.tflite'
  path.unlink()
  found = quantise(study, quantisation.QUANTISATIONS)
  assert len(found) == len(before) == 8
  assert {n: p.read_bytes() for n, p in tflite_files(study).items()} == before
  for other, time in times.items():
    assert (other.stat().st_mtime_ns == time) == (other != path)


def test_predictions_say_what_members_were_made_from(finished):
  shards = image_records.find_shards(f'{finished}/data', 'eval')
  predicted = inference.predict(
    member_paths.find(f'{finished}/exp'),
    shards,
    tfrecords.describe(shards),
    **OPTIONS,
  )
  made_from = {
    checkpoint.member.level.words: set(frame['made_from'])
    for checkpoint, _, frame in predicted
  }
  assert made_from['dense'] == made_from['threshold 0.9'] == {''}
  assert made_from[INT8] == {'exp/baseline/0.0/0/0/0/0/model.ckpt-10'}
  assert made_from[f'threshold_{INT8} 0.9'] == {
    'exp/threshold/0.9/2/8/2/0/model.ckpt-10'
  }


def change_version(study, monkeypatch):
  versions = {'litert-quantizer': '9.9'}
  monkeypatch.setattr(quantisation, 'versions', lambda of: versions)


def cut_short(study, monkeypatch):
  del monkeypatch
  path = study / f'exp/{INT8}/0.0/0/0/0/0/model.ckpt-10.tflite'
  path.write_bytes(path.read_bytes()[:-100])


def train_anew(study, monkeypatch):
  del monkeypatch
  (study / 'exp/quantise_checkpoints.run.json').unlink()
  write_member(study, 'baseline', 0.0, 0)
  network = member_paths.find(f'{study}/exp/baseline')[0]
  values = checkpoints.read(network.prefix)
  values.values['resnet_model/final_dense/bias'][:] = 7
  checkpoints.write(network.prefix, values)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (change_version, 'versions litert-quantizer was 0.11.0, is 9.9'),
    (cut_short, r'int8/0.0/.*tflite is damaged'),
    (train_anew, r'tflite was made from another checkpoint than'),
  ],
)
def test_what_was_made_otherwise_is_refused_by_name(
  study, monkeypatch, change, message
):
  change(study, monkeypatch)
  with pytest.raises(ValueError, match=message):
    quantise(study)


@pytest.mark.parametrize('change', [cut_short, train_anew])
def test_and_predicts_nothing(study, monkeypatch, change):
  change(study, monkeypatch)
  shards = image_records.find_shards(f'{study}/data', 'eval')
  predicted = inference.predict(
    member_paths.find(f'{study}/exp/int8'),
    shards,
    tfrecords.describe(shards),
    **OPTIONS,
  )
  with pytest.raises(ValueError, match='damaged|another checkpoint'):
    next(predicted)


def test_members_of_a_level_are_of_one_quantiser(study, monkeypatch):
  # This one is a copy, which would be refused before.
  monkeypatch.setattr(member_checks, '_check_copies', lambda checkpoints: None)
  here = study / f'exp/{INT8}/0.0/0/0/0/0'
  there = here.parent / '1'
  shutil.copytree(here, there)
  path = there / 'model.ckpt-10.json'
  described = json.loads(path.read_text())
  described['made_from']['how']['versions']['litert-quantizer'] = '0.12.0'
  path.write_text(json.dumps(described))
  shards = image_records.find_shards(f'{study}/data', 'eval')
  with pytest.raises(
    ValueError, match=r'one level, int8, but .*litert-quantizer is "0.12.0"'
  ):
    next(
      inference.predict(
        member_paths.find(f'{study}/exp'),
        shards,
        tfrecords.describe(shards),
        **OPTIONS,
      )
    )


def test_the_sample_is_fixed_by_its_seed_and_of_all_shards(finished):
  shards = image_records.find_shards(f'{finished}/data', 'train')
  reader = data_input.OrderedReader(
    tfrecords.describe(shards), tfrecords.detect(shards), 'legacy', 20
  )
  ((_, _, everything),) = reader.read(shards[0], tfrecords.describe(shards))
  everything = everything.numpy()

  def places(images):
    return [
      int(np.flatnonzero((everything == image).all(axis=(1, 2, 3)))[0])
      for image in images
    ]

  first = places(calibration.read(shards, 5, 0, 'legacy'))
  assert first == sorted(set(first))
  assert first == places(calibration.read(shards, 5, 0, 'legacy'))
  assert first != places(calibration.read(shards, 5, 1, 'legacy'))
  assert places(calibration.read(shards, 99, 0, 'legacy')) == list(range(20))
  many = [f'train-{i:05d}-of-00100' for i in range(100)]
  chosen = calibration.choose_shards(many, 0)
  assert chosen == sorted(chosen) != calibration.choose_shards(many, 1)


def test_descriptions_hold_all_that_decides(finished):
  (path,) = finished.glob(f'exp/{INT8}/**/*.json')
  how = network_files.read(str(path)).made_from['how']
  assert how['quantisation'] == INT8
  assert set(how['versions']) == {
    'tensorflow',
    'litert-quantizer',
    'ai-edge-litert',
  }
  assert how['calibration']['images'] == 8
  assert set(how['calibration']) == {
    'images',
    'batch_size',
    'seed',
    'preprocessing',
    'shards',
  }


@pytest.mark.parametrize(
  ('of', 'options', 'message'),
  [
    (['int4'], {}, r"--quantisation is 'int4', wanted some of"),
    ([INT8], {'pruning_method': 'x'}, 'holds no checkpoint of .* by x'),
  ],
)
def test_wrong_flags_are_named(finished, of, options, message):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    quantise(finished, of, **options)
