"""What a command's process does about reference cycles."""

import subprocess
import sys

CODE = """
import atexit, gc, sys

class Cycle:
    def __init__(self):
        self.own = self
    def __del__(self):
        print("collected")

at_the_end = Cycle()
atexit.register(lambda: print(gc.get_freeze_count() > 0, len(gc.get_objects())))
before = gc.get_threshold()[0]
sys.argv = ["ffds", "show", "digits"]
from ffds.__main__ import run
code = run()
Cycle()
gc.collect()
print(code, gc.get_threshold()[0] > before)
"""


def test_a_command_collects_rarely_and_not_at_its_end():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-3:] == ["collected", "0 True", "True 0"]


def test_the_library_leaves_the_collector_alone():
    code = "import gc; was = gc.get_threshold(); import ffds.training.train; print(was == gc.get_threshold())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
