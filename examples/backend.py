"""What each example does first: it says which backend it runs on.

`import backend` stands above `import keras`, so that TensorFlow leaves out most of the notes about
how it was built; warnings and errors are shown.
"""

import importlib
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # 0 shows the notes too

try:
    import keras
except ModuleNotFoundError as error:
    sys.exit(
        f"The package {error.name} is not installed. Set the environment variable KERAS_BACKEND to "
        "the backend that is (tensorflow, jax or torch); without it Keras takes tensorflow: pip "
        'install ".[tensorflow]".'
    )

# Keras compiles a step with XLA on JAX, and on TensorFlow where there is a GPU. On a CPU a step of
# a small network takes two thirds of the time with it. torch has a compiler of its own.
JIT_COMPILE = "auto" if keras.backend.backend() == "torch" else True


def say() -> None:
    """Prints the first line of every example."""
    name = keras.backend.backend()
    version = importlib.import_module(name).__version__
    print(f"Keras {keras.version()} on {name} {version} (KERAS_BACKEND selects it)", flush=True)
