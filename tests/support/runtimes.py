"""Formats of artifacts that not every environment can write and run."""

from importlib.util import find_spec

import keras
import pytest

# What writes and runs a format, where the checks do not install all of it.
MODULES = {
    "openvino": "openvino",
    "executorch": "executorch",
    "litert on torch": "litert_torch",
}


def installed(form):
    """The mark that skips a test where a format cannot be written."""
    module = MODULES.get(form)
    missing = module is not None and find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


def each(*forms, slow=()):
    """Formats as parameters of a test: skipped without their packages, some of them slow.

    ExecuTorch's is slow on other backends than torch, where a fresh process writes it.
    """
    if keras.backend.backend() != "torch":
        slow = (*slow, "executorch")
    return [
        pytest.param(form, marks=[installed(form), *[pytest.mark.slow] * (form in slow)])
        for form in forms
    ]
