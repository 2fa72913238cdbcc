"""A Dask cluster of processes on this machine, for tests and benchmarks."""

import os
import signal
import subprocess
import sys
import time


class Cluster:
  """Processes of a scheduler and of workers, started as people start them."""

  def __init__(self, folder):
    self.file = str(folder / 'scheduler.json')
    self._folder = folder
    self._processes = []
    self.start_scheduler()

  def start_scheduler(self):
    """Returns when it answers; takes the place of one that has ended."""
    if os.path.exists(self.file):
      os.remove(self.file)
    flags = ('--port=0', '--host=127.0.0.1', '--no-dashboard')
    self.scheduler = self._start('scheduler', *flags)
    while not os.path.exists(self.file):
      time.sleep(0.05)

  def start_workers(self, number=2, *flags, **variables):
    """Starts workers of one process each, and one that watches over them."""
    several = ('--nthreads=1', f'--nworkers={number}', '--no-dashboard')
    return self._start('worker', *several, *flags, **variables)

  def _start(self, what, *flags, **variables):
    log = self._folder / f'{what}-{len(self._processes)}'
    file = f'--scheduler-file={self.file}'
    self._processes.append(
      subprocess.Popen(
        [sys.executable, '-m', 'dask', what, file, *flags],
        cwd=self._folder,  # Wherever: they import what the command imports.
        env={**os.environ, **variables},
        stdout=log.open('w'),
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )
    )
    return self._processes[-1]

  def stop(self):
    """Ends all of them at once."""
    for process in self._processes:
      process.poll() is None and os.killpg(process.pid, signal.SIGKILL)
      process.wait()
