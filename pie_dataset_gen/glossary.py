"""The words of the page of PIEs, each with the sentence that explains it."""

import re
from collections.abc import Mapping

import markupsafe

from pie_dataset_gen import solidity

TERMS: Mapping[str, str] = {
  'member': (
    'One trained network: a method, a fraction of zero weights, a replicate.'
  ),
  'level': (
    'The members that were made alike: one method at one fraction of zero '
    'weights.'
  ),
  'dense': (
    'The members that were not compressed. Every level is held against them.'
  ),
  'compressed': (
    'The members of a level: pruned, quantised, or made smaller in another way.'
  ),
  'modal label': (
    'The class that most members of a population predict for an image.'
  ),
  'PIE': (
    'Pruning Identified Exemplar: an image whose modal label differs between '
    'the dense and the compressed members. Some images do by chance alone.'
  ),
  'chance PIE': (
    'An image whose modal label differs though only chance separates the '
    'groups that vote: random halves of the dense members, or all members with '
    'the names dense and compressed dealt out anew. What is true of PIEs and '
    'of chance PIEs alike says nothing about compression. Levels in pairs have '
    'none of dense halves.'
  ),
  'memberships permuted': (
    'The same members and votes, with the names dense and compressed dealt out '
    'at random: what is counted then is what chance gives. It may be compared '
    'with the count of PIEs above it.'
  ),
  'in pairs': (
    'Of a level: each member was made from the dense member of its number, as '
    'quantised ones are. Then the two of a pair change places, or do not, '
    'where the names dense and compressed are dealt out, and each class is '
    'tested by the differences within pairs.'
  ),
  'beyond chance': (
    'How many more PIEs there are than chance gives on average: the number of '
    'PIEs less the mean number by chance.'
  ),
  'p, if it predicted like the dense': (
    'The share of ways to deal out the names dense and compressed that set the '
    'votes over all images as far apart: small if the level predicts otherwise '
    'than chance explains.'
  ),
  'the others': 'The images that are no PIE at the level.',
  'chosen by other members': (
    'The PIEs of one half of the members, seen by the other half. Members that '
    'choose the images on which they disagree look worse on them than they are.'
  ),
  'Taxicab distance': (
    'How far the votes for an image differ: the sum over classes of | dense '
    'votes - compressed votes |. Counts compare only where both populations '
    'have one size.'
  ),
  'Taxicab rank': (
    '1 for the image of a level whose Taxicab distance is largest; images as '
    'far apart share the better rank.'
  ),
  'p-value': (
    'Of an image: the share of ways to deal out the names dense and compressed '
    'that set its votes as far apart. Small if chance hardly does that.'
  ),
  'q-value': (
    'The p-value with allowance made for how many images were looked at: of '
    'the images with q of at most 0.05 no more than about one in twenty is '
    'there by chance. '
    'Images whose votes can give no small p-value have none.'
  ),
  'PIE frequency': (
    'The share of random halves of both populations (half as many of the same '
    'members) between which the image is a PIE.'
  ),
  **{word: solidity.MEANINGS[word] for word in list(solidity.MEANINGS)[:3]},
  'interval': (
    'The numbers in square brackets, 12 [6, 18]: made so that of 100 studies '
    'about 95 hold the mean number over studies with as many members. Beside a '
    'count by chance they are the range of 95 % of the permutations instead.'
  ),
  'rule for ties': (
    'Which of several classes with as many votes is the modal label. With few '
    'members many PIEs exist by this rule alone.'
  ),
  'suspect': (
    'An image ranked among the first to look at: for how few members, dense or '
    'compressed, agree with its label or, if it was asked so, for how surely '
    'dense and compressed members differ.'
  ),
  'fell against the whole': (
    'Of a class: its recall moved down compared with the accuracy of the whole '
    '(lost more, or gained less), after correction for the number of classes.'
  ),
  'rose against the whole': (
    'Of a class: its recall moved up compared with the accuracy of the whole '
    '(lost less, or gained more), after correction for the number of classes. '
    'It may have lost too.'
  ),
  'fell, by chance': (
    'The mean number of classes that fall against the whole when the names '
    'dense and compressed are dealt out at random.'
  ),
  'rose, by chance': (
    'The mean number of classes that rise against the whole when the names '
    'dense and compressed are dealt out at random.'
  ),
  'compression ratio': (
    'The parameters of a dense member over those of a compressed one that are '
    'not zero.'
  ),
  'theoretical speed-up': (
    'The multiply-adds of a dense member over those of a compressed one by '
    'weights that are not zero: what a machine could gain that skips all zeros '
    'for nothing. Common ones do not.'
  ),
  'multiply-adds': (
    'Multiplications of a number by a weight that an image takes, each with an '
    'addition.'
  ),
  'gzipped': (
    'Packed by gzip: runs of zeros take little. Bytes are those of the weights '
    'in float32, or of the files of networks in other formats.'
  ),
  'churn': (
    'The share of images on which two members answer otherwise, whether right '
    'or wrong. Two dense members do so, too.'
  ),
  'against the dense': (
    'Of a dense and a compressed member; of pairs, of a dense member and the '
    'one that was made from it.'
  ),
  'among themselves': 'Of two compressed members.',
  'beyond noise': (
    'How much more dense and compressed members differ from each other than '
    'the members of either population do: 0 where both answer alike, however '
    'much training varies.'
  ),
  'newly wrong': (
    'The share of images that a dense member has right and a compressed one '
    'wrong. Of two dense members it is above 0, too.'
  ),
  'newly right': (
    'The share of images that a dense member has wrong and a compressed one '
    'right.'
  ),
  'ECE': (
    'Expected calibration error: how far the share of images that a member has '
    'right is from how sure it says that it is, on average over 15 groups of '
    'images about which it is equally sure. It is a little above 0 by chance.'
  ),
  'NLL': (
    'Negative log-likelihood, in nats: what a member pays for how sure it was '
    'of its answer, right or wrong. It is small, too, of a member that is '
    'rarely right and knows it: compare members of like top-1.'
  ),
  'Brier score': (
    'The squared difference between how sure a member was of its answer and '
    'whether it was right (1 or 0). It is small, too, of a member that is '
    'rarely right and knows it: compare members of like top-1.'
  ),
  'of the predicted class': (
    'Of the answer that a member gives and its probability; nothing is known '
    'of those of the other classes.'
  ),
  'squared calibration error': (
    'As the ECE, with the differences squared and without what chance adds: it '
    'may fall below 0.'
  ),
  'confidence': 'The probability that a member gives the class it predicts.',
  'overconfidence': (
    'The mean confidence less the top-1: above 0 a member is too sure.'
  ),
  'share of PIEs': (
    'How many of the PIEs are of the group; beside it, how many of all images.'
  ),
  'false positive rate': (
    'The share of images of class 0 that a member calls 1, of two classes.'
  ),
  'false negative rate': (
    'The share of images of class 1 that a member calls 0, of two classes.'
  ),
  'equalised odds difference': (
    'How far groups are apart in their false positive rates, or in their false '
    'negative rates if that is further. It is above 0 by chance, too.'
  ),
  'top-1': 'The share of images whose class a member predicts rightly.',
  'error, dense = 1': (
    "The compressed members' error over that of the dense members on the same "
    'images.'
  ),
  'loss, clean = 1': (
    'The top-1 lost to compression on these images over that lost on clean '
    'ones. Where little is lost on clean images it says little, and has no '
    'interval.'
  ),
}

# How a text may spell a term.
_SPELLINGS: dict[str, str] = {
  'error on': 'error, dense = 1',
  'loss on': 'loss, clean = 1',
  'PIEs': 'PIE',
  'chance PIEs': 'chance PIE',
  'members': 'member',
  'levels': 'level',
  'intervals': 'interval',
  'suspects': 'suspect',
  'Suspects': 'suspect',
  'modal labels': 'modal label',
  **{term: term for term in TERMS},
}
_ANY = re.compile(
  r'(?<![\w-])('
  + '|'.join(map(re.escape, sorted(_SPELLINGS, key=len, reverse=True)))
  + r')(?![\w-])'
)


def explain(text: str) -> markupsafe.Markup:
  """A text as HTML, its terms with their sentence as a tooltip."""
  parts = _ANY.split(text)
  # Every second part is a term.
  return markupsafe.Markup('').join(
    markupsafe.Markup('<abbr title="{}">{}</abbr>').format(
      TERMS[_SPELLINGS[part]], part
    )
    if at % 2
    else part
    for at, part in enumerate(parts)
  )
