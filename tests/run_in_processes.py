"""Runs a script whose processes are worth their start however little they read.

Arguments are the script's module and its flags.
"""

import runpy
import sys

from utils import prediction_files

if __name__ == '__main__':
  prediction_files._BYTES_PER_PROCESS = 1
  del sys.argv[0]
  runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
