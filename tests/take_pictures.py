"""Takes the documents' pictures from the results of ./run.sh.

  python -m tests.take_pictures [--study=runs/digits]

Writes .github/pictures/gallery.png, the page in a headless Chromium, for
README, and .github/pictures/class_impact.png for docs/commands.md.
"""

import pathlib
import shutil
import sys

from absl import app, flags
from playwright import sync_api

FLAGS = flags.FLAGS
_PICTURES = pathlib.Path(__file__).parents[1] / '.github' / 'pictures'


def main(argv):
  """Takes both pictures."""
  del argv
  results = pathlib.Path(FLAGS.study).resolve() / 'results' / 'digits'
  page_path = results / 'gallery' / 'eval' / 'index.html'
  figure = results / 'eval' / 'class_impact_threshold_0.9.png'
  browser_path = shutil.which('chromium') or shutil.which('google-chrome')
  for needed in (page_path, figure):
    if not needed.exists():
      sys.exit(f'no {needed}: run ./run.sh first')
  if not browser_path:
    sys.exit('no Chromium here (on Debian: apt install chromium)')
  _PICTURES.mkdir(parents=True, exist_ok=True)
  shutil.copy(figure, _PICTURES / 'class_impact.png')
  with sync_api.sync_playwright() as driver:
    browser = driver.chromium.launch(
      executable_path=browser_path, args=['--no-sandbox']
    )
    page = browser.new_page(viewport={'width': 1200, 'height': 760})
    page.goto(page_path.as_uri())
    page.evaluate("document.getElementById('images').scrollIntoView()")
    page.evaluate("document.querySelector('#grid img').decode()")
    page.wait_for_timeout(500)
    page.screenshot(path=_PICTURES / 'gallery.png')
    browser.close()


if __name__ == '__main__':
  flags.DEFINE_string('study', 'runs/digits', 'Folder of the study.')
  app.run(main)
