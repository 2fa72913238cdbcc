"""What the classes are called, by a CSV or by the data set's description.

Data from elsewhere has no `image_records.json`; its classes may be named by a
CSV (`tables.CLASSES`). Where both are there, they have to agree: a list of
classes in another order would put every result under another name. Classes that
a description calls by their ids, since nobody told it more, agree with any.
"""

from utils import csvs, image_records, tables


def read(
  path: str, records: image_records.ImageRecords | None = None
) -> tuple[str, ...]:
  """The names in the order of the class ids.

  Args:
    path: of a CSV, or '' for the names of the description.
    records: the description of the data set, where there is one.

  Returns:
    [num_classes]; empty where nothing says the names.

  Raises:
    ValueError: the CSV names no class, one twice or not all, or contradicts the
      description; names the first class that does.
  """
  if not path:
    return records.class_names if records else ()
  rows = csvs.read(tables.CLASSES, path)[['class_id', 'class_name']]
  rows = rows.drop_duplicates().sort_values('class_id', ignore_index=True)
  ids = rows['class_id']
  if ids.duplicated().any():
    names = rows.loc[ids == ids[ids.duplicated()].iloc[0], 'class_name']
    raise ValueError(
      f'{path} calls class {ids[names.index[0]]} {names.iloc[0]!r} and '
      f'{names.iloc[1]!r}, wanted one name'
    )
  gaps = ids[ids != ids.index]
  if len(gaps) or len(ids) < 2:
    raise ValueError(
      f'{path} names {len(ids)} classes, but not class '
      f'{gaps.index[0] if len(gaps) else len(ids)}: wanted each from 0 on, two '
      'or more'
    )
  found = tuple(rows['class_name'])
  for i, name in enumerate(found):
    if not name:
      raise ValueError(f'{path} has no name for class {i}')
  if records:
    _check_alike(path, found, records)
  return found


def _check_alike(
  path: str, found: tuple[str, ...], records: image_records.ImageRecords
) -> None:
  if len(found) != records.num_classes:
    raise ValueError(
      f'{path} names {len(found)} classes, the data set {records.name} has '
      f'{records.num_classes}'
    )
  if records.class_names == tuple(map(str, range(len(found)))):
    return
  for i, (name, wanted) in enumerate(
    zip(found, records.class_names, strict=True)
  ):
    if name != wanted:
      raise ValueError(
        f'{path} calls class {i} {name!r}, the data set {records.name} calls '
        f'it {wanted!r}: wanted the same classes in the same order'
      )
