"""Every test starts from the same seed, in float32."""

import gc
import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests compile far more than they compute: what JAX's `jax_disable_most_optimizations` sets.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import keras
import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _same_start():
    keras.utils.set_random_seed(0)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    yield
    keras.utils.clear_session(
        free_memory=False
    )  # collecting garbage would take a third of a second


def pytest_collection_finish():
    """What was imported stays; to look through all of it takes half a second each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # the rest is collected behind each module


@pytest.fixture(autouse=True, scope="module")
def _little_garbage():
    """Models hold themselves in cycles: thousands of them, collected at once, take minutes."""
    yield
    gc.collect()
