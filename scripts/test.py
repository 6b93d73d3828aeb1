"""Runs every check of this repository: the one script for people and for CI.

    python3 scripts/test.py                  # makes .venv, installs, runs all checks but slow
    python3 scripts/test.py --only jax       # one check; names below
    python3 scripts/test.py --here           # in this Python as it is: installs nothing
    python3 scripts/test.py --release colab  # at the versions that Google Colab has
    python3 scripts/test.py --keras 3.14.0   # with this release of Keras, or "nightly"

Checks: lint, types, site; package (`scripts/package.py`: built, and tried with each backend alone);
once (the tests with the marker `backend_free`); tensorflow, jax, torch (all others, on that
backend); and slow (the tests with that marker, some minutes more, on JAX or on what KERAS_BACKEND
says), which runs only where `--only` names it. As many run side by side as there are cores, each on
one thread. The output of what fails is printed; the last line sums everything up, and the exit
status is 0 only if nothing failed and every run of tests found tests.
"""

import argparse
import concurrent.futures
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("jax", "tensorflow", "torch")
EXTRAS = "tensorflow,jax,torch,datasets,export,openvino,plots,examples,test,notebooks,docs"
# What is pinned, by release; pip takes the newest of all else.
RELEASES = {
    "newest": {"torch": "2.13.0"},
    # Stock Google Colab, and Kaggle, which builds on it; Python 3.13 there. Their list, here of
    # 2026-08-19: https://github.com/googlecolab/backend-info/blob/main/pip-freeze.txt
    "colab": {
        "keras": "3.13.2",
        "tensorflow": "2.20.0",
        "jax": "0.7.2",
        "torch": "2.11.0",
        "numpy": "2.1.3",
        "protobuf": "5.29.6",
    },
    # The lower bounds of pyproject.toml. JAX needs NumPy 2.
    "oldest": {
        "keras": "3.10.0",
        "tensorflow": "2.20.0",
        "jax": "0.7.2",
        "torch": "2.9.0",
        "numpy": "2.0.2",
    },
}
LIMIT = 60 * 60  # seconds for one check


@dataclass
class Result:
    name: str
    passed: int
    failed: int
    seconds: float
    output: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--here", action="store_true", help="use this Python as it is")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="CHECK",
        choices=[*CHECKS],
        default=[c for c in CHECKS if c != "slow"],
    )
    parser.add_argument("--release", choices=[*RELEASES], default="newest", help="what to install")
    parser.add_argument("--keras", metavar="VERSION", help='another Keras than that, or "nightly"')
    parser.add_argument("--torch", metavar="VERSION", help='another torch than that, or "newest"')
    options = parser.parse_args()
    if options.here and (options.keras or options.torch or options.release != "newest"):
        parser.error("--release, --keras and --torch install, --here does not")

    if options.here:
        python = Path(sys.executable)
    else:
        python = environment(installations(options.release, options.keras, options.torch))
    workers = os.cpu_count() or 1
    passed = failed = 0
    with (
        tempfile.TemporaryDirectory() as compiled,
        concurrent.futures.ThreadPoolExecutor(min(workers, len(options.only))) as pool,
    ):
        checks = [pool.submit(check, name, python, Path(compiled) / name) for name in options.only]
        for future in concurrent.futures.as_completed(checks):
            result = future.result()
            passed, failed = passed + result.passed, failed + result.failed
            if result.failed:
                print(f"\n===== {result.name} =====\n{result.output}", flush=True)
            say(
                f"{result.name}: {result.passed} passed, {result.failed} failed in "
                f"{result.seconds:.0f} s"
            )
    print(f"{passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed or not passed else 0)


def installations(release: str, keras: str | None, torch: str | None) -> list[list[str]]:
    """What pip is to install, one call after the other.

    Args:
        release: a key of `RELEASES`.
        keras: a version in place of the release's, or "nightly".
        torch: a version in place of the release's, or "newest".
    """
    versions = {**RELEASES[release], **({"keras": keras} if keras else {})}
    versions |= {"torch": torch} if torch else {}
    pins = [
        name if version in ("newest", "nightly") else f"{name}=={version}"
        for name, version in versions.items()
    ]
    # It asks for a JAX that the other releases do not have.
    extras = f"{EXTRAS},jax2onnx" if release == "newest" else EXTRAS
    # torch first and alone: where pip is pointed at CPU builds it finds one, and a later range does
    # not replace it.
    (first,) = (pin for pin in pins if pin.startswith("torch"))
    calls = [[first], ["-e", f"{ROOT}[{extras}]", *pins]]
    if keras == "nightly":  # which writes its files over those of Keras
        calls.append(["--pre", "--no-deps", "--force-reinstall", "keras-nightly"])
    return calls


def environment(installations: list[list[str]]) -> Path:
    """The Python of `.venv`, with everything installed that the checks need."""
    folder = ROOT / ".venv"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    expected = hashlib.sha256(
        (ROOT / "pyproject.toml").read_bytes() + repr(installations).encode()
    ).hexdigest()
    stamp = folder / "installed-for-tests"
    if stamp.exists() and stamp.read_text() == expected:
        return python
    if not python.exists():
        say("making .venv")
        venv.create(folder, with_pip=True)
    say("installing; the first time takes a minute or two")
    start = time.monotonic()
    for packages in installations:
        command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            print(
                f"{done.stdout}\npip could not install {' '.join(packages)}\n0 passed, 1 failed",
                flush=True,
            )
            sys.exit(1)
    # For the clients of examples/deploy; without npm their tests are skipped.
    if npm := shutil.which("npm"):
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=ROOT / "examples" / "deploy",
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        if done.returncode:
            say(
                "npm could not install the packages of examples/deploy: the tests of its clients "
                "will be skipped"
            )
    stamp.write_text(expected)
    say(f"installed in {time.monotonic() - start:.0f} s")
    return python


def check(name: str, python: Path, compiled: Path) -> Result:
    """Runs one check in a process of its own.

    Args:
        name: a key of `CHECKS`.
        python: the interpreter to run it with.
        compiled: a folder for what JAX compiles, which is much the same in many tests.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [str(python), "-m", *CHECKS[name]]
        if command[2] == "pytest":
            command += ["-q", "--color=no", "--durations=10", f"--junitxml={report}"]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, **variables(name, compiled)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=LIMIT,
            )
            status, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired as late:
            partial = late.stdout or b""
            status, output = 1, f"{partial.decode(errors='replace')}\nstopped after {LIMIT} seconds"
        passed, failed = counts(report) if command[2] == "pytest" else (int(status == 0), 0)
        if status and not failed:
            failed = 1  # a crash, a timeout, no test found, or a check that is not a test run
    return Result(name, passed, failed, time.monotonic() - start, output)


def variables(name: str, compiled: Path) -> dict[str, str]:
    """Environment of a check: its backend, one thread, and where JAX keeps what it compiled."""
    return {
        "KERAS_BACKEND": name if name in BACKENDS else os.environ.get("KERAS_BACKEND", "jax"),
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def counts(report: Path) -> tuple[int, int]:
    """Tests passed and failed in a JUnit report; nothing found counts as a failure."""
    if not report.exists():
        return 0, 1
    suites = list(ElementTree.parse(report).iter("testsuite"))
    total, failures, errors, skipped = (
        sum(int(suite.get(key, 0)) for suite in suites)
        for key in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    return total - failed - skipped, failed if total else 1


def say(line: str) -> None:
    print(f"[test] {line}", flush=True)


# The longest first, so that cores stay busy.
EACH = ["pytest", "tests", "-m", "not slow and not backend_free"]
CHECKS = {
    "tensorflow": EACH,
    "once": ["pytest", "tests", "-m", "not slow and backend_free"],
    "jax": EACH,
    "torch": EACH,
    "slow": ["pytest", "tests", "-m", "slow"],
    "package": ["scripts.package"],
    "types": ["mypy"],
    # Not `--quiet`: what is not said does not count for `--strict`.
    "site": ["mkdocs", "build", "--strict", "--site-dir", str(ROOT / "site")],
    "lint": ["ruff", "check", "."],
}

if __name__ == "__main__":
    main()
