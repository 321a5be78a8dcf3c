"""
Find a Python that is new enough, and run make_venv.py with it, which makes the virtual environment of a level.

    python3 scripts/bootstrap.py [run|test|load|locust|contract|docs|peer|bench]

This file is so simple that every Python back to 2.7 can run it and say which version is needed.
"""

import os
import runpy
import sys

PYTHON_MIN = (3, 11)
PYTHON_NAMES = ("python3.13", "python3.12", "python3.11")

if sys.version_info < PYTHON_MIN:
    for name in PYTHON_NAMES:
        for folder in os.environ.get("PATH", "").split(os.pathsep):
            found = os.path.join(folder, name)
            if os.access(found, os.X_OK):
                os.execv(found, [found] + sys.argv)  # noqa: RUF005 -- unpacking is not in 2.7
    sys.exit(
        "setup: Tallystick needs Python 3.11 or newer; "
        + sys.executable
        + " is "
        + sys.version.split()[0]
        + ",\nand none of "
        + ", ".join(PYTHON_NAMES)
        + " is on PATH."
    )

runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(__file__)), "make_venv.py"), run_name="__main__")
