"""matplotlib's pyplot, which is imported when a picture is drawn."""

from types import ModuleType

from keras_stateful.foundation.version import pip_install


def import_pyplot(function: str) -> ModuleType:
    """`matplotlib.pyplot`.

    Args:
        function: what draws, named in the error.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; with the command that installs it.
    """
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"`{function}` draws with matplotlib, which is not installed: {pip_install('plots')}."
        ) from error
    return plt
