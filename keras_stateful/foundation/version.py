"""The version, where the build and every room can read it without importing the package's names."""

__version__ = "0.1.0"

# True once an index holds this package by its name; a release sets it.
PUBLISHED = False


def bring_keras() -> str:
    """How to install Keras with a backend, a sentence for an error message."""
    return f"{pip_install('tensorflow')} (or jax, torch) brings it."


def pip_install(*extras: str) -> str:
    """How to install this package with extras of pyproject.toml, for an error message."""
    names = ",".join(extras)
    if PUBLISHED:
        return f'`pip install "keras-stateful[{names}]"`'
    return f'`pip install ".[{names}]"` in a clone of keras_stateful'
