"""What a release of Keras lacks is asked and refused in one place."""

import keras
import pytest

from keras_stateful.export import formats
from keras_stateful.foundation import keras_internals

pytestmark = pytest.mark.backend_free


@pytest.mark.parametrize(
    ("installed", "release", "has"),
    [
        ("3.13.2", "3.13", True),
        ("3.13.2", "3.14", False),
        ("3.9.1", "3.10", False),  # by number, not by letter
        ("3.100.0", "3.15", True),
        ("4.0", "3.15", True),
        ("3.16.0.dev2026102704", "3.16", True),
        ("3.14.0rc0", "3.14", True),
    ],
)
def test_releases_are_compared_by_number(installed, release, has, monkeypatch):
    monkeypatch.setattr(keras, "version", lambda: installed)
    assert keras_internals.has_keras(release) is has


def test_a_refusal_names_feature_and_versions_and_command(monkeypatch):
    keras_internals.needs_keras("3.10", "Training")
    monkeypatch.setattr(keras, "version", lambda: "3.12.1")
    with pytest.raises(ImportError) as error:
        keras_internals.needs_keras("3.14", "Writing")
    assert str(error.value) == (
        "Writing needs Keras 3.14 or later. Received: Keras 3.12.1. "
        'Run `pip install "keras>=3.14"`.'
    )


@pytest.mark.parametrize(
    ("installed", "running", "modules", "form", "backend"),
    [
        # With this much installed, on this backend of this Keras, that one writes the format.
        ("3.15.1", "jax", {"tensorflow", "jax", "onnx", "tf2onnx", "jax2onnx"}, "onnx", "jax"),
        ("3.15.1", "jax", {"tensorflow", "jax", "onnx", "tf2onnx"}, "onnx", "tensorflow"),
        (
            "3.13.2",
            "jax",
            {"tensorflow", "jax", "onnx", "tf2onnx", "jax2onnx"},
            "onnx",
            "tensorflow",
        ),
        ("3.10.0", "jax", {"torch", "jax", "onnx", "onnxscript", "jax2onnx"}, "onnx", "torch"),
        ("3.10.0", "torch", {"torch", "onnx", "onnxscript"}, "onnx", "torch"),
        ("3.15.1", "torch", {"torch", "litert_torch", "tensorflow"}, "litert", "torch"),
        ("3.13.2", "torch", {"torch", "litert_torch", "tensorflow"}, "litert", "tensorflow"),
        ("3.15.1", "jax", {"jax", "torch", "executorch"}, "executorch", "torch"),
        ("3.15.1", "jax", {"jax", "onnx", "jax2onnx", "openvino"}, "openvino", "jax"),
        ("3.10.0", "jax", {"jax", "tensorflow"}, "tf_saved_model", "jax"),
    ],
)
def test_a_format_is_written_by_a_backend_whose_keras_can(
    installed, running, modules, form, backend, monkeypatch
):
    monkeypatch.setattr(keras, "version", lambda: installed)
    monkeypatch.setattr(keras.backend, "backend", lambda: running)
    monkeypatch.setattr(formats, "find_spec", lambda name: name if name in modules else None)
    assert formats.backend_for(form) == backend


@pytest.mark.parametrize(
    ("installed", "running", "modules", "form", "refusal"),
    [
        (
            "3.12.1",
            "tensorflow",
            {"tensorflow"},
            "litert",
            r"with tensorflow.*Keras 3\.13 or later",
        ),
        ("3.14.0", "torch", {"torch", "litert_torch"}, "litert", r"with torch.*Keras 3\.15 or"),
        ("3.13.2", "jax", {"jax", "onnx", "jax2onnx"}, "onnx", r"with jax.*Keras 3\.14 or later"),
        # Nothing is there that a later Keras would write it with: what works with this one.
        ("3.13.2", "jax", {"jax"}, "onnx", r"Keras on jax cannot.*\[tensorflow,export\]"),
        ("3.15.1", "jax", {"jax"}, "onnx", r"jax2onnx.*\[jax,export,jax2onnx\]"),
        (
            *("3.15.1", "jax", {"jax", "onnx", "jax2onnx"}, "openvino"),
            r"with onnx and jax2onnx and openvino.*\[jax,export,jax2onnx,openvino\]",
        ),
        (
            "3.15.1",
            "tensorflow",
            {"torch"},
            "executorch",
            r"tensorflow cannot.*\[torch,executorch\]",
        ),
        ("3.15.1", "torch", {"torch"}, "litert", r"with litert_torch.*\[torch,litert\]"),
    ],
)
def test_a_format_that_nobody_can_write_is_refused_with_the_remedy(
    installed, running, modules, form, refusal, monkeypatch
):
    monkeypatch.setattr(keras, "version", lambda: installed)
    monkeypatch.setattr(keras.backend, "backend", lambda: running)
    monkeypatch.setattr(formats, "find_spec", lambda name: name if name in modules else None)
    with pytest.raises(ImportError, match=refusal):
        formats.backend_for(form)
