"""Which release of Keras a feature needs; what each release lacks stands in `docs/versions.md`.

Where a release lacks something, that feature is refused, by `needs_keras`, and the rest works.
"""

import keras


def has_keras(release: str) -> bool:
    """True if the installed Keras is of a release or later, its nightly builds included.

    Args:
        release: such as "3.14".
    """
    return _parts(keras.version()) >= _parts(release)


def needs_keras(release: str, feature: str) -> None:
    """Checks that the installed Keras is of a release or later.

    Args:
        release: such as "3.14".
        feature: what needs it, which begins the sentence.

    Raises:
        ImportError: an older one.
    """
    if not has_keras(release):
        raise ImportError(f"{feature} needs {keras_or_later(release)}")


def keras_or_later(release: str) -> str:
    """A release, the one that is installed, and how to come from one to the other, in sentences."""
    return (
        f"Keras {release} or later. Received: Keras {keras.version()}. Run "
        f'`pip install "keras>={release}"`.'
    )


def _parts(release: str) -> tuple[int, int]:
    """Major and minor number; what follows (`.2`, `.0.dev2026102704`) changes no feature."""
    major, minor, *_ = release.split(".")
    return int(major), int(minor)
