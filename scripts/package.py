"""Builds the package, looks into it, and tries it where nothing else is installed.

    python -m scripts.package                    # the check `package` of scripts/test.py
    python -m scripts.package --bare             # before a release: environments made by pip
    python -m scripts.package --bare jax session

Either way `scripts/try_training.py` runs with each backend alone, and `scripts/try_session.py` with
NumPy and ONNX Runtime. By default the packages that a backend needs are those of this Python,
linked into an environment without any other, which takes a second instead of minutes; what the
package needs and does not declare is missing there. With `--bare`, pip installs them all.
"""

import argparse
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import Distribution, PathDistribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

from scripts.test import BACKENDS, RELEASES, ROOT

ARTIFACT = ROOT / "tests" / "fixtures" / "flat" / "onnx"
SESSION = ["numpy", "onnxruntime"]
# One thread, as every other check; and code that runs for milliseconds is not worth optimizing.
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "NO_COLOR": "1",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}


@dataclass(frozen=True)
class Built:
    """The two files of a release."""

    sdist: Path
    wheel: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    places = [*BACKENDS, "session"]
    parser.add_argument("--bare", nargs="*", choices=places, help="install with pip")
    options = parser.parse_args()
    bare = options.bare is not None
    with tempfile.TemporaryDirectory() as folder:
        built = build(Path(folder) / "dist", isolated=bare)
        for place in options.bare or places:
            start, cpu = time.monotonic(), cpu_seconds()
            where = Path(folder) / place
            python = make_environment(where)
            (install if bare else link)(place, built, python)
            try_in(where, python, place)
            if bare:
                pip(python, "--force-reinstall", "--no-deps", built.sdist)
                try_in(where, python, place)
            say(f"{place}: {time.monotonic() - start:.0f} s, {cpu_seconds() - cpu:.0f} s of CPU")


def build(folder: Path, isolated: bool) -> Built:
    """The sdist, and the wheel made from it, which is the wheel made from the tree."""
    command = [sys.executable, "-m", "build", "--outdir"]
    options = [] if isolated else ["--no-isolation"]
    run([*command, folder, *options, ROOT])
    run([*command, folder / "tree", "--wheel", *options, ROOT])
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    assert wheel.read_bytes() == (folder / "tree" / wheel.name).read_bytes(), (
        "the wheel that is built from the sdist differs from the one that is built from the tree"
    )
    missing = tracked() - contents(sdist)
    assert not missing, f"the sdist lacks {sorted(missing)}"
    run([sys.executable, "-m", "twine", "check", "--strict", sdist, wheel])
    say(f"built {sdist.name} and {wheel.name}")
    return Built(sdist, wheel)


def contents(sdist: Path) -> set[str]:
    """Paths of the files, as in the tree."""
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive.getmembers()}


def tracked() -> set[str]:
    """Paths of the files that git has; none where the tree is an unpacked sdist."""
    if not (ROOT / ".git").exists():
        return set()
    return set(subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split())


def make_environment(folder: Path) -> Path:
    """The Python of a virtual environment that holds nothing, pip neither."""
    venv.create(folder, symlinks=os.name != "nt")
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(place: str, built: Built, python: Path) -> None:
    """The wheel with a backend, or with what a session needs, all by pip."""
    if place == "session":
        pip(python, "--no-deps", built.wheel)
        pip(python, *SESSION)
        return
    if place == "torch":
        pip(python, f"torch=={RELEASES['newest']['torch']}")
    pip(python, f"{built.wheel}[{place}]")


def link(place: str, built: Built, python: Path) -> None:
    """The same, with the installed packages of this Python in the place of downloads."""
    pip(python, "--no-deps", "--no-index", built.wheel)
    if place == "session":
        needed = SESSION
    else:
        (information,) = [
            path for path in zipfile.Path(built.wheel).iterdir() if path.name.endswith(".dist-info")
        ]
        needed = requirements(PathDistribution(information), {place})
    (packages,) = python.parents[1].rglob("site-packages")
    owners = Counter(
        top for one in distributions() for top in {path.parts[0] for path in files(one)}
    )
    for one in closure(needed):
        # Whole folders, unless several distributions have files there: tens of thousands of links
        # are slow to make and to remove.
        paths = {path if owners[path.parts[0]] > 1 else Path(path.parts[0]) for path in files(one)}
        for path in paths:
            (packages / path).parent.mkdir(parents=True, exist_ok=True)
            (packages / path).symlink_to(one.locate_file(path))


def files(one: Distribution) -> list[Path]:
    """What a distribution has below `site-packages`: all but its scripts."""
    return [Path(path) for path in one.files or () if ".." not in path.parts]


def closure(needed: list[str]) -> list[Distribution]:
    """The installed distributions that some requirements bring along, each once."""
    brought: dict[str, Distribution] = {}
    asked: set[tuple[str, str]] = set()
    todo = [Requirement(line) for line in needed]
    while todo:
        requirement = todo.pop()
        one = brought.setdefault(requirement.name.lower(), distribution(requirement.name))
        assert requirement.specifier.contains(one.version, prereleases=True), (
            f"{requirement} is needed, {one.version} is installed"
        )
        new = {extra for extra in ("", *requirement.extras)} - {
            extra for name, extra in asked if name == one.name
        }
        asked |= {(one.name, extra) for extra in new}
        todo += [Requirement(line) for line in requirements(one, new)] if new else []
    return list({one.name: one for one in brought.values()}.values())


def requirements(one: Distribution, extras: set[str]) -> list[str]:
    """What a distribution requires here, with some of its extras; "" is none of them."""
    return [
        line
        for line in one.requires or ()
        if (marker := Requirement(line).marker) is None
        or any(marker.evaluate({"extra": extra}) for extra in extras)
    ]


def try_in(folder: Path, python: Path, place: str) -> None:
    """Runs a program with what an environment holds, and none of this process's paths."""
    work = Path(tempfile.mkdtemp(dir=folder))
    program = ["try_session.py", ARTIFACT] if place == "session" else ["try_training.py"]
    said = run(
        [python, "-I", ROOT / "scripts" / program[0], *program[1:]],
        cwd=work,
        env={**os.environ, **VARIABLES, "KERAS_BACKEND": place},
    )
    say(said)


def pip(python: Path, *packages: object) -> None:
    run([sys.executable, "-m", "pip", "--python", python, "install", "-q", *packages])


def run(command: list, **options: object) -> str:
    """The last line of what a command says; all of it is printed where it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        **{"env": {**os.environ, **VARIABLES}, **options},
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {' '.join(map(str, command))}")
    return done.stdout.strip().rpartition("\n")[2]


def cpu_seconds() -> float:
    """What the processes that ended have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def say(line: str) -> None:
    print(f"[package] {line}", flush=True)


if __name__ == "__main__":
    main()
