"""The clients that are not Python: their text is Python's, character for character.

Skipped where Node.js, the packages of `examples/deploy` (`npm install` there) or Chromium are
missing.
"""

import fcntl
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import keras_stateful as ks

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "examples" / "deploy"

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed"),
    pytest.mark.skipif(
        not (CLIENTS / "node_modules").exists(), reason="run `npm install` in examples/deploy first"
    ),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The directory, and the text that `export.py` printed after "The "."""
    directory = tmp_path_factory.mktemp("deploy") / "exported"
    done = subprocess.run(
        [sys.executable, str(CLIENTS / "export.py"), str(directory), "--smoke"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return directory, python_text(directory, "The ", 200)


def python_text(directory, prompt, length):
    with ks.load_session(directory) as session:
        characters = session.metadata["characters"]
        ids = ks.generate(session, [characters.index(c) for c in prompt], length, temperature=0)
    return "".join(characters[i] for i in ids)


def node(*arguments):
    return subprocess.run(
        ["node", "write.mjs", *map(str, arguments)], cwd=CLIENTS, capture_output=True, text=True
    )


def test_greedy_text_in_node_is_that_of_python(exported):
    directory, text = exported
    for prompt in ("The ", "import x"):
        done = node(directory, prompt, 200)
        assert done.returncode == 0, done.stderr
        assert done.stdout[:-1] == python_text(directory, prompt, 200)
    assert len(set(text)) > 1


def test_temperature_in_node_draws(exported):
    texts = {node(exported[0], "The ", 60, 1.0).stdout for _ in range(3)}
    assert len(texts) == 3


def test_an_initial_state_that_is_not_zero(tmp_path):
    import keras

    @keras.saving.register_keras_serializable(package="deploy_clients")
    class Slow(keras.layers.Layer):
        units = state_size = output_size = 3

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

        def call(self, inputs, states):
            h = 0.9 * states[0] + keras.ops.tanh(keras.ops.matmul(inputs, self.kernel))
            return h, [h]

        def get_initial_state(self, batch_size=None):
            return [keras.ops.tile(keras.ops.array([[0.5, -2.0, 1.0]], "float32"), (batch_size, 1))]

    keras.utils.set_random_seed(2)
    ids = keras.Input((None,), dtype="int32")
    h = keras.layers.RNN(Slow(), return_sequences=True)(keras.layers.Embedding(5, 4)(ids))
    ks.export_step_model(
        keras.Model(ids, keras.layers.Dense(5)(h)), tmp_path / "m", metadata={"characters": "abcde"}
    )
    assert node(tmp_path / "m", "ab", 50).stdout[:-1] == python_text(tmp_path / "m", "ab", 50)


def test_an_altered_artifact_is_refused(exported, tmp_path):
    copy = shutil.copytree(exported[0], tmp_path / "copy")
    content = bytearray((copy / "model.onnx").read_bytes())
    content[100] ^= 1
    (copy / "model.onnx").write_bytes(content)
    done = node(copy, "The ")
    assert done.returncode != 0
    assert "SHA-256" in done.stderr


# The page, in a browser


class Browser:
    """A headless Chromium, spoken to over a pipe in the DevTools protocol: no driver is needed."""

    def __init__(self, executable, profile):
        commands, self.out = os.pipe()
        self.answers, answer = os.pipe()
        options = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", f"--user-data-dir={profile}", "--remote-debugging-pipe"),
            "about:blank",
        ]

        def hand_over():  # Chromium reads from 3 and writes to 4
            for number, end in (
                (3, fcntl.fcntl(commands, fcntl.F_DUPFD, 10)),
                (4, fcntl.fcntl(answer, fcntl.F_DUPFD, 10)),
            ):
                os.dup2(end, number)

        self.process = subprocess.Popen(
            [executable, *options], preexec_fn=hand_over, pass_fds=(3, 4), stderr=subprocess.DEVNULL
        )
        os.close(commands)
        os.close(answer)
        self.number, self.unread, self.session = 0, b"", {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {
            "sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)[
                "sessionId"
            ]
        }

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters, **self.session}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:  # events stand between the answers
            while b"\0" not in self.unread:
                part = os.read(self.answers, 1 << 16)
                assert part, "the browser has ended"
                self.unread += part
            line, self.unread = self.unread.split(b"\0", 1)
            reply = json.loads(line)
            if reply.get("id") == self.number:
                assert "error" not in reply, reply["error"]
                return reply["result"]

    def run(self, body, *arguments):
        """The value of a function's body in the page."""
        code = f"((...args) => {{ {body} }})(...{json.dumps(arguments)})"
        reply = self.call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def until(self, body, seconds=60):
        end = time.monotonic() + seconds
        while not (value := self.run(body)):
            assert time.monotonic() < end, self.run("return document.body.innerText")
            time.sleep(0.02)
        return value

    def close(self):
        self.process.terminate()
        self.process.wait()
        os.close(self.out)
        os.close(self.answers)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def page(exported, tmp_path_factory):
    executable = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if executable is None:
        pytest.skip("no Chromium is installed")
    site = tmp_path_factory.mktemp("site")
    for path in CLIENTS.iterdir():
        (site / path.name).symlink_to(path)
    (site / "exported").symlink_to(exported[0])
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=site)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = Browser(executable, tmp_path_factory.mktemp("profile"))
    browser.call(
        "Page.navigate", url=f"http://127.0.0.1:{server.server_port}/index.html?length=200"
    )
    browser.until("return document.getElementById('status')?.textContent === 'Ready.'")
    yield browser
    browser.close()
    server.shutdown()


SLIDE = """
const slider = document.getElementById('temperature');
slider.value = args[0]; slider.dispatchEvent(new Event('input'));
return document.getElementById('shown').value;
"""
TEXT = "return document.getElementById('text').textContent"
DONE = "return document.getElementById('status').textContent === 'Done.'"


def press(browser, button):
    browser.run("document.getElementById(args[0]).click()", button)


def test_the_page_writes_the_text_of_python(page, exported):
    assert page.run(SLIDE, "0") == "0.00"
    press(page, "write")
    page.until(DONE)
    assert page.run(TEXT) == exported[1]


def test_the_page_writes_as_one_watches_and_resets(page):
    page.run(SLIDE, "1.2")
    press(page, "write")
    early = len(page.until(TEXT))
    assert 0 < early < 200
    press(page, "reset")
    time.sleep(0.3)
    assert page.run(TEXT) == ""
    texts = []
    for _ in range(2):
        press(page, "write")
        page.until(DONE)
        texts.append(page.run(TEXT))
    assert texts[0] != texts[1]
    assert all(len(text) == 200 for text in texts)


def test_the_page_tells_what_is_wrong(page):
    page.run("document.getElementById('prompt').value = '\\u2603'")
    press(page, "write")
    status = page.until(
        "const s = document.getElementById('status').textContent; return s.includes('Error') && s"
    )
    assert "no character that the model knows" in status
