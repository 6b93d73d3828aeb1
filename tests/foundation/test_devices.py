"""Several devices, and several processes: the results are those of one.

Devices are made when a backend starts, so each test is a process of its own. `devices/` holds what
runs in them.
"""

import importlib
import json
import os
import re
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_stateful as ks

pytestmark = pytest.mark.backend_free

HERE = Path(__file__).resolve().parents[1] / "support"
ROOT = HERE.parents[1]
PATHS = os.pathsep.join(map(str, (ROOT, HERE / "devices")))  # what the processes import
FAST = "--xla_backend_optimization_level=0"
# Four devices on fewer cores wait for each other in every step; XLA ends a process in which one
# waits for 40 seconds, and likewise one that is given a flag that it does not know.
FOUR = "--xla_force_host_platform_device_count=4"
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
if version("jaxlib") < "0.8":
    PATIENT = ""


def start(*command, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PATHS, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def outputs(*processes: subprocess.Popen) -> list[str]:
    """What each printed; fails where one fails."""
    try:
        printed = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(printed)
    return printed


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


@pytest.mark.parametrize(
    ("backend", "file", "flags"),
    [
        ("jax", "jax_devices.py", f"{FAST} {FOUR} {PATIENT}"),
        ("tensorflow", "tensorflow_replicas.py", FAST),
    ],
)
def test_devices(backend, file, flags):
    command = (
        "-m",
        "pytest",
        "-q",
        "--color=no",
        "-p",
        "no:cacheprovider",
        HERE / "devices" / file,
    )
    (report,) = outputs(start(*command, KERAS_BACKEND=backend, XLA_FLAGS=flags))
    assert re.search(r"^\d+ passed", report, re.MULTILINE)


def losses(report: str) -> list[float]:
    found = [
        float(number) for number in re.findall(r"^epoch \d+: loss (\S+)", report, re.MULTILINE)
    ]
    assert found
    return found


@pytest.mark.slow
def test_jax_processes_equal_one(tmp_path):
    example = ROOT / "examples" / "jax_processes.py"
    (alone,) = outputs(start(example, "--output", tmp_path / "one.keras", XLA_FLAGS=FAST))
    address = f"127.0.0.1:{free_port()}"
    pair = ("--coordinator", address, "--processes", 2, "--process")
    first, second = outputs(
        start(example, *pair, 0, "--output", tmp_path / "two.keras", XLA_FLAGS=FAST),
        start(example, *pair, 1, XLA_FLAGS=FAST),
    )
    assert "loss" not in second
    np.testing.assert_allclose(losses(first), losses(alone), rtol=1e-5)
    assert_same_weights(tmp_path / "one.keras", tmp_path / "two.keras")


def test_states_that_lie_in_another_jax_process(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HERE / "devices")
    training = importlib.import_module("training")
    model, history = training.trained()  # in this process, on one device
    states = {path: [a.tolist() for a in arrays] for path, arrays in ks.get_states(model).items()}
    (tmp_path / "one.json").write_text(json.dumps({"history": history, "states": states}))
    command = (HERE / "devices" / "jax_process.py", f"127.0.0.1:{free_port()}")
    outputs(
        *(
            start(*command, p, tmp_path / "one.json", XLA_FLAGS=FAST, KERAS_BACKEND="jax")
            for p in range(2)
        )
    )


def test_torch_processes_equal_one(tmp_path):
    example = ROOT / "examples" / "torch_ddp.py"
    (alone,) = outputs(start(example, "--epochs", 1, "--output", tmp_path / "one.keras"))
    world = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    first, second = outputs(
        start(example, "--epochs", 1, "--output", tmp_path / "two.keras", RANK="0", **world),
        start(example, "--epochs", 1, RANK="1", **world),
    )
    assert "loss" not in second
    np.testing.assert_allclose(losses(first), losses(alone), rtol=1e-5)
    assert_same_weights(tmp_path / "one.keras", tmp_path / "two.keras")


def assert_same_weights(one: Path, two: Path) -> None:
    a, b = (keras.models.load_model(path).get_weights() for path in (one, two))
    for mine, other in zip(a, b, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
