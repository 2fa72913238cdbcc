"""Terms are explained where they stand, and nothing else is changed."""

import markupsafe
import pytest

from pie_dataset_gen import glossary


def test_terms_have_their_sentence_and_the_text_stays():
  text = 'top-1 of dense on chance PIEs, <b>members</b> of a PIE-like level'
  html = glossary.explain(text)
  assert markupsafe.Markup(html).striptags() == text
  assert '<b>' not in html
  for word, term in (
    ('chance PIEs', 'chance PIE'),
    ('dense', 'dense'),
    ('members', 'member'),
    ('top-1', 'top-1'),
  ):
    sentence = markupsafe.escape(glossary.TERMS[term])
    assert f'<abbr title="{sentence}">{word}</abbr>' in html
  # Neither within another word nor within a longer term.
  assert html.count('<abbr') == 5
  assert glossary.explain('condensed') == 'condensed'


@pytest.mark.parametrize(
  ('row', 'term', 'says'),
  [
    ('classes that fell against the whole', 'fell against the whole', 'down'),
    ('classes that rose against the whole', 'rose against the whole', 'up'),
    ('fell, by chance', 'fell, by chance', 'classes that fall against'),
    ('rose, by chance', 'rose, by chance', 'classes that rise against'),
    ('PIEs beyond chance', 'beyond chance', 'than chance gives on average'),
  ],
)
def test_rows_of_the_table_are_explained(row, term, says):
  assert says in glossary.TERMS[term]
  sentence = markupsafe.escape(glossary.TERMS[term])
  assert f'<abbr title="{sentence}">{term}</abbr>' in glossary.explain(row)


def test_every_term_is_found_and_has_one_or_more_sentences():
  for term, sentence in glossary.TERMS.items():
    assert glossary.explain(term).startswith('<abbr title=')
    assert sentence.endswith('.')
