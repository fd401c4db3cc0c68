"""Starts the engine for `EngineHome`: run as a script by a bare interpreter, replaced by the engine.

The engine writes into its working directory and outlives a parent that is killed. So it starts in its private
directory, asks the kernel to die with its parent (Linux), and leaves a note of who it is for the next start's sweep.
It leaves the terminal, too: Ctrl-C, or a notebook's interrupt, is for its parent alone.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """``launcher.py HOME PARENT ENGINE ARGUMENTS...``"""
    home, parent, engine, *arguments = sys.argv[1:]
    os.chdir(home)
    os.setsid()
    instance = arguments[arguments.index("+viz_instance_id") + 1]
    with open("engine.json.part", "w") as file:
        json.dump({"pid": os.getpid(), "instance": instance}, file)
    os.replace("engine.json.part", "engine.json")
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal, sigkill = 1, 9
        ctypes.CDLL(None).prctl(set_parent_death_signal, sigkill)
    if os.getppid() != int(parent):
        sys.exit("The process that wanted this engine is gone.")
    os.execv(engine, [engine, *arguments])


if __name__ == "__main__":
    main()
