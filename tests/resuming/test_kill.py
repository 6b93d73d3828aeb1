"""A process killed at random moments and started again ends with the losses of an unbroken one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest
import resumed_trainings as resume


def start(folder: Path) -> subprocess.Popen:
    script = Path(__file__).resolve().parents[1] / "support" / "killed.py"
    command = [sys.executable, script, folder / "backup", folder / "out.json"]
    environment = {
        **os.environ,
        "KERAS_BACKEND": keras.backend.backend(),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def kill_and_finish(folder: Path, kills: int, seed: int) -> tuple[dict, list[int]]:
    """Results of a training that was killed so often, and the steps that each process began."""
    rng, steps = random.Random(seed), []
    for _ in range(kills):
        process = start(folder)
        begun = 0
        for _ in range(
            rng.randrange(2, 6)
        ):  # a few steps in; then some milliseconds: within a step, or a saving
            assert process.stdout is not None
            begun += process.stdout.readline() == "step\n"
        time.sleep(rng.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        steps.append(begun)
    process = start(folder)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads((folder / "out.json").read_text()), [*steps, output.count("step\n")]


def unbroken() -> dict:
    data, model, _ = resume.make("align")
    losses = resume.Losses()
    history = model.fit(data, epochs=resume.EPOCHS, verbose=0, callbacks=[losses])
    return json.loads(json.dumps({"losses": losses.seen, "history": history.history}))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("kills", [1, pytest.param(7, marks=pytest.mark.slow)])
def test_killed_and_started_again(kills, tmp_path):
    result, steps = kill_and_finish(tmp_path, kills, seed=kills)
    wanted = unbroken()
    assert all(steps)
    assert steps[-1] < len(wanted["losses"])  # the last process did not begin anew
    assert result == wanted
