"""Every table is declared as its readers need it."""

from utils import csvs, tables


def test_every_table_is_well_formed():
  known = [t for t in vars(tables).values() if isinstance(t, csvs.Table)]
  assert len(known) >= 6
  for table in known:
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert set(table.key) <= set(names)
    assert set(table.sort_by) <= set(names)
    for column in table.columns:
      assert column.kind in ('int', 'float', 'text'), column
      assert column.meaning, column
