"""Numbers of the headline table rounded for people; the CSV has all digits."""

import math

_SHARES = (
  *('top-', 'error', 'loss', 'lowest recall', 'churn', 'newly', 'NLL', 'Brier'),
  *('ECE', 'mean confidence', 'confidence', 'overconfidence'),
  *('compression ratio', 'theoretical speed-up', 'false ', 'equalised odds'),
)
# Of the size of a hundredth of a share.
_SQUARES = 'squared'


def is_p_value(measure: str) -> bool:
  """Whether a measure of the headline table is a p-value."""
  return measure.startswith(('p,', 'p of', 'p-value')) or 'p-value' in measure


def is_share(measure: str) -> bool:
  """Whether it is an accuracy, a share or a ratio; others are counts."""
  return measure.startswith(_SHARES) or 'share' in measure


def p_value(value: float) -> str:
  """Three decimals, or one digit that is not 0: 0.003, 0.0004."""
  if value <= 0 or value >= 0.001:
    return f'{value:.3f}'.rstrip('0').rstrip('.')
  return f'{value:.{math.ceil(-math.log10(value))}f}'


def share(value: float, beside: float) -> str:
  """Three decimals below 1, three digits from there on: 0.969, 4.78.

  Args:
    value: an accuracy, a share or a ratio.
    beside: as in `count`.
  """
  size = abs(beside)
  decimals = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
  text = f'{value:.{decimals}f}'
  # What rounds to 0 has no sign.
  return text if float(text) else text.removeprefix('-')


def count(value: float, beside: float) -> str:
  """A count, with the decimals that suit the count it stands beside.

  Args:
    value: a whole or a mean number.
    beside: the number that an interval is of, or the value itself: its end
      5.862 is 6 beside 12.
  """
  size = abs(beside)
  decimals = 0 if size >= 10 else 1 if size >= 1 or size == 0 else 2
  text = f'{value:.{decimals}f}'
  return text.rstrip('0').rstrip('.') if decimals else text


def number(value: float, measure: str, beside: float | None = None) -> str:
  """A number of the headline table as people read it.

  Args:
    value: not NaN.
    measure: the line of the table.
    beside: as in `count`; the value itself if None.
  """
  if is_p_value(measure):
    return p_value(value)
  beside = value if beside is None else beside
  if measure.startswith(_SQUARES):
    return f'{value:.5f}'
  return (share if is_share(measure) else count)(value, beside)
