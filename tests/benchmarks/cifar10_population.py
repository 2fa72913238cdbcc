r"""Trains a population of CIFAR-10 networks with PyTorch on one GPU.

The population of docs/cifar10.md, and an example of networks that come from
another framework: predictions go into the project as CSVs. For each replicate
it trains a dense network and one for each of --sparsities, pruned while it
trains, and makes eight-bit copies of the dense one and of the sparsest, and a
copy of the dense one with weights of four bits:

  python -m tests.benchmarks.cifar10_population --train=cifar10/train \
      --test=cifar10/test --output=predictions

--train and --test are folders of one tar or folder for each class. Needs
PyTorch (not among the requirements). A member takes 4.5 seconds on an NVIDIA
H100, 150 of them 12 minutes. With --images it takes so many of each class only,
to try it without a GPU. Members that are there are not made again.

The network is a ResNet-9 of 1.6 million parameters: 12 epochs of batches of 512
in bfloat16, Nesterov's momentum 0.9, weight decay 5e-4, a learning rate that
rises to 0.4 and falls to 0 linearly, images moved by up to 4 pixels and
mirrored. Each kernel is pruned by magnitude on the cubic schedule of Zhu &
Gupta (2017) between 20 and 75 % of the steps. Eight bits are simulated: weights
symmetric for each output channel, activations by one range for each tensor,
found on 512 training images.
"""

import io
import math
import tarfile

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812, as PyTorch's users know it
from absl import app, flags, logging
from etils import epath
from PIL import Image
from torch import nn

from pie_dataset_gen import write_predictions

FLAGS = flags.FLAGS
_BATCH = 512
_MEAN, _DEVIATION = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
_DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def read_images(folder: str, limit: int | None):
  """Pixels [n, 32, 32, 3], class ids [n] and keys `<class>/<name>`."""
  pixels, labels, keys = [], [], []
  places = sorted(epath.Path(folder).iterdir())
  for label, place in enumerate(places):
    if place.is_dir():
      files = {path.name: path.read_bytes() for path in place.iterdir()}
    else:
      with tarfile.open(place) as tar:
        files = {
          member.name.removeprefix('./'): tar.extractfile(member).read()
          for member in tar
          if member.isfile()
        }
    for name in sorted(files)[:limit]:
      image = Image.open(io.BytesIO(files[name])).convert('RGB')
      pixels.append(np.asarray(image))
      labels.append(label)
      keys.append(f'{place.name.split(".")[0]}/{name}')
  return np.stack(pixels), np.array(labels), keys


class Block(nn.Module):
  """Convolution, batch normalisation, ReLU, and pooling if it is wanted."""

  def __init__(self, inputs, outputs, pool=False):
    super().__init__()
    self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    self.norm = nn.BatchNorm2d(outputs)
    self.pool = pool

  def forward(self, x):
    x = F.relu(self.norm(self.conv(x)))
    return F.max_pool2d(x, 2) if self.pool else x


class Network(nn.Module):
  """A ResNet-9: three stages, the first and last with a residual."""

  def __init__(self, width=32):
    super().__init__()

    def residual(channels):
      return nn.Sequential(Block(channels, channels), Block(channels, channels))

    self.stem = Block(3, width)
    self.first = Block(width, 2 * width, pool=True)
    self.first_residual = residual(2 * width)
    self.second = Block(2 * width, 4 * width, pool=True)
    self.third = Block(4 * width, 8 * width, pool=True)
    self.third_residual = residual(8 * width)
    self.classes = nn.Linear(8 * width, 10)

  def forward(self, x):
    x = self.first(self.stem(x))
    x = x + self.first_residual(x)
    x = self.third(self.second(x))
    x = x + self.third_residual(x)
    return 0.5 * self.classes(F.adaptive_max_pool2d(x, 1).flatten(1))

  @property
  def kernels(self):
    return [p for p in self.parameters() if p.dim() > 1]


class Trainer:
  """Trains one member after another; on a GPU one captured step serves all."""

  def __init__(self, images, labels, epochs):
    self.images, self.labels = images, labels
    self.net = Network().to(_DEVICE, memory_format=torch.channels_last)
    self.params = list(self.net.parameters())
    self.masks = [torch.ones_like(kernel) for kernel in self.net.kernels]
    self.momentum = [torch.zeros_like(p) for p in self.params]
    self.rate = torch.zeros((), device=_DEVICE)
    batch = min(_BATCH, len(images))
    self.batch = torch.zeros_like(images[:batch])
    self.batch_labels = torch.zeros_like(labels[:batch])
    self.steps = len(images) // batch
    self.epochs = epochs
    self.graph = None
    if _DEVICE == 'cuda':
      stream = torch.cuda.Stream()
      stream.wait_stream(torch.cuda.current_stream())
      with torch.cuda.stream(stream):
        for _ in range(5):
          self.step()
      torch.cuda.current_stream().wait_stream(stream)
      self.graph = torch.cuda.CUDAGraph()
      with torch.cuda.graph(self.graph):
        self.step()

  def step(self):
    with torch.autocast(_DEVICE, torch.bfloat16, cache_enabled=False):
      scores = self.net(self.batch.permute(0, 3, 1, 2))
      loss = F.cross_entropy(scores.float(), self.batch_labels)
    gradients = torch.autograd.grad(loss, self.params)
    with torch.no_grad():
      gradients = torch._foreach_add(list(gradients), self.params, alpha=5e-4)
      torch._foreach_mul_(self.momentum, 0.9)
      torch._foreach_add_(self.momentum, gradients)
      ahead = torch._foreach_add(gradients, self.momentum, alpha=0.9)
      torch._foreach_mul_(ahead, self.rate)
      torch._foreach_sub_(self.params, ahead)
      torch._foreach_mul_(self.net.kernels, self.masks)

  @torch.no_grad()
  def prune(self, sparsity):
    for kernel, mask in zip(self.net.kernels, self.masks, strict=True):
      magnitude = kernel.abs().flatten()
      if zeros := round(sparsity * magnitude.numel()):
        cut = torch.kthvalue(magnitude, zeros).values
        mask.copy_(kernel.abs() > cut)
        kernel.mul_(mask)

  def train(self, sparsity, seed):
    torch.manual_seed(seed)
    self.net.train()
    for module in self.net.modules():
      if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
        module.reset_parameters()
    for tensor in self.momentum:
      tensor.zero_()
    for mask in self.masks:
      mask.fill_(1)
    total = self.epochs * self.steps
    rise, begin, end = 0.2 * total, int(0.2 * total), int(0.75 * total)
    for step in range(total):
      at = step % self.steps
      if not at:
        images = moved(self.images)
        order = torch.randperm(len(images), device=_DEVICE)
      chosen = order[at * len(self.batch) : (at + 1) * len(self.batch)]
      torch.index_select(images, 0, chosen, out=self.batch)
      torch.index_select(self.labels, 0, chosen, out=self.batch_labels)
      self.rate.fill_(0.4 * min(step / rise, (total - step) / (total - rise)))
      if self.graph:
        self.graph.replay()
      else:
        self.step()
      due = (step - begin) % 32 == 0 or step == end
      if sparsity and begin <= step <= end and due:
        left = 1 - (step - begin) / (end - begin)
        self.prune(sparsity * (1 - left**3))
    self.net.eval()


def moved(images):
  """Images [n, 32, 32, 3] moved by up to 4 pixels each way, half mirrored."""
  n = len(images)
  padded = F.pad(images.permute(0, 3, 1, 2), (4,) * 4, mode='reflect')
  padded = padded.permute(0, 2, 3, 1)
  places = torch.arange(32, device=_DEVICE)
  rows, columns = (
    places + torch.randint(0, 9, (n, 1), device=_DEVICE) for _ in range(2)
  )
  mirrored = torch.rand((n, 1), device=_DEVICE) < 0.5
  columns = torch.where(mirrored, columns.flip(1), columns)
  which = torch.arange(n, device=_DEVICE)[:, None, None]
  return torch.cat(
    [
      padded[which[part], rows[part][:, :, None], columns[part][:, None]]
      for part in (slice(i, i + 10_000) for i in range(0, n, 10_000))
    ]
  )


class Folded:
  """A network as it is used: batch normalisation folded, weights of few bits.

  With calibration images, activations have eight bits, too.
  """

  def __init__(self, net, bits=None, calibration=None):
    self.layers = {'classes': (net.classes.weight, net.classes.bias)}
    for name, module in net.named_modules():
      if isinstance(module, Block):
        norm = module.norm
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.layers[name] = (
          module.conv.weight * scale[:, None, None, None],
          norm.bias - norm.running_mean * scale,
        )
    if bits:
      self.layers = {
        name: (rounded(weight, bits), bias)
        for name, (weight, bias) in self.layers.items()
      }
    self.ranges, self.calibrates = {}, calibration is not None
    if self.calibrates:
      self.scores(calibration)
      self.calibrates = False

  def seen(self, name, x):
    if self.calibrates:
      self.ranges[name] = min(0.0, float(x.min())), max(0.0, float(x.max()))
    if self.calibrates or name not in self.ranges:
      return x
    low, high = self.ranges[name]
    scale = max(high - low, 1e-6) / 255
    zero = round(-low / scale)
    return ((x / scale).round() + zero).clamp(0, 255).sub(zero) * scale

  def block(self, name, x, pool=False):
    weight, bias = self.layers[name]
    x = self.seen(name, F.relu(F.conv2d(x, weight, bias, padding=1)))
    return F.max_pool2d(x, 2) if pool else x

  def residual(self, name, x):
    inner = self.block(f'{name}.1', self.block(f'{name}.0', x))
    return self.seen(name, x + inner)

  def __call__(self, x):
    x = self.block('stem', self.seen('images', x))
    x = self.residual('first_residual', self.block('first', x, pool=True))
    x = self.block('third', self.block('second', x, pool=True), pool=True)
    x = self.residual('third_residual', x)
    x = F.adaptive_max_pool2d(x, 1).flatten(1)
    return 0.5 * self.seen('scores', F.linear(x, *self.layers['classes']))

  @torch.no_grad()
  def scores(self, images):
    return torch.cat([self(part) for part in images.split(2500)]).cpu().numpy()


def rounded(weight, bits):
  """Weights in whole steps, of one size for each output channel."""
  most = 2 ** (bits - 1) - 1
  largest = weight.abs().amax(tuple(range(1, weight.dim())), keepdim=True)
  step = largest.clamp_min(1e-12) / most
  return (weight / step).round() * step


def main(argv):
  """Trains what is missing."""
  del argv
  pixels, labels, _ = read_images(FLAGS.train, FLAGS.images)
  test_pixels, test_labels, keys = read_images(FLAGS.test, FLAGS.images)

  def normalised(of):
    mean, deviation = torch.tensor(_MEAN), torch.tensor(_DEVIATION)
    return ((torch.from_numpy(of) - mean) / deviation).to(_DEVICE)

  images = normalised(pixels)
  test = normalised(test_pixels).permute(0, 3, 1, 2).contiguous()
  some = np.random.default_rng(7).choice(len(images), min(512, len(images)))
  calibration = images[some].permute(0, 3, 1, 2).contiguous()
  trainer = Trainer(
    images.to(torch.bfloat16),
    torch.from_numpy(labels).to(_DEVICE),
    FLAGS.epochs,
  )
  eight, four = (8, calibration), (4, None)
  for replicate in range(FLAGS.first, FLAGS.first + FLAGS.replicates):
    for sparsity in [0.0, *map(float, FLAGS.sparsities)]:
      method, copies = 'threshold', {}
      if not sparsity:
        method, copies = 'baseline', {'int4': four, 'int8': eight}
      elif sparsity == float(FLAGS.sparsities[-1]):
        copies = {'threshold_int8': eight}
      name = f'predictions_dataframe_{method}_{sparsity}_{replicate}.csv'
      if (epath.Path(FLAGS.output) / 'all' / name).exists():
        continue
      trainer.train(sparsity, seed=100 * replicate + math.floor(10 * sparsity))
      scores = {
        **{how: Folded(trainer.net, *of) for how, of in copies.items()},
        # Written last: where it is, the copies are.
        method: Folded(trainer.net),
      }
      for how, network in scores.items():
        path = write_predictions.write(
          FLAGS.output,
          test_labels,
          keys,
          logits=network.scores(test),
          pruning_method=how,
          fraction_pruned=sparsity,
          replicate=replicate,
        )
        logging.info('wrote %s', path)


if __name__ == '__main__':
  flags.DEFINE_string('train', None, 'Training images.', required=True)
  flags.DEFINE_string('test', None, 'Test images.', required=True)
  flags.DEFINE_string('output', None, 'Folder of the CSVs.', required=True)
  flags.DEFINE_list('sparsities', ['0.3', '0.5', '0.7', '0.9'], 'Zeros.')
  flags.DEFINE_integer('replicates', 30, 'Members a level.')
  flags.DEFINE_integer('first', 0, 'The first replicate.')
  flags.DEFINE_integer('epochs', 12, 'Epochs.')
  flags.DEFINE_integer('images', None, 'Images of each class; all if unset.')
  app.run(main)
