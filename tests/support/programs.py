"""Programs in processes of their own, forked from one that has imported what they import.

Importing Keras, its backend and this package takes seconds, and most short programs nothing else.
So one process imports them and computes nothing, and each program runs in a fork of it: its own
memory, folder, arguments and environment. Where there is no `fork` each process imports anew.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

_METHODS = multiprocessing.get_all_start_methods()
_CONTEXT = multiprocessing.get_context("forkserver" if "forkserver" in _METHODS else "spawn")
_CONTEXT.set_forkserver_preload(["imported_before"])


def run(
    program: Path, folder: Path, *arguments: str, name: str | None = None, **variables: str
) -> subprocess.CompletedProcess:
    """Runs a Python file and waits for its end.

    Args:
        program: the file.
        folder: where it runs; what it prints is kept there.
        arguments: as on a command line.
        name: what tracebacks call the file, if another; its folder is then not on `sys.path`.
        variables: of the environment.
    """
    printed = folder / "printed.out", folder / "printed.err"
    process = _CONTEXT.Process(
        target=_program, args=(str(program), str(folder), arguments, name, variables, printed)
    )
    process.start()
    process.join(600)
    late = process.is_alive()
    if late:
        process.kill()
        process.join()
    out, err = (path.read_text("utf-8", "replace") if path.exists() else "" for path in printed)
    assert not late, f"{program.name} ran for ten minutes\n{out}\n{err}"
    return subprocess.CompletedProcess([str(program), *arguments], process.exitcode, out, err)


def _program(
    program: str, folder: str, arguments: tuple, name: str | None, variables: dict, printed: tuple
) -> None:
    for number, path in enumerate(printed, 1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
    os.chdir(folder)
    os.environ.update(variables)
    sys.argv = [program, *arguments]
    if name is None:
        sys.path.insert(0, os.path.dirname(program))
        runpy.run_path(program, run_name="__main__")
    else:
        code = compile(Path(program).read_text(encoding="utf-8"), name, "exec")
        exec(code, {"__name__": "__main__"})
