"""The same numbers in what other packages make of them: frames and tensors `(n, 3)`."""

import keras
import numpy as np
import pytest

NAMES = ["speed", "load", "heat"]


def frame(x):
    return pytest.importorskip("pandas").DataFrame(x, columns=NAMES)


def mixed(x):
    """Columns of several dtypes, of which NumPy makes objects."""
    table = frame(x)
    return table.assign(load=table["load"].astype("Float64"), heat=table["heat"].astype("object"))


def torch_tensor(x, **options):
    return pytest.importorskip("torch").tensor(x, **options)


def bfloat16(x):
    torch = pytest.importorskip("torch")
    return torch.tensor(x, dtype=torch.bfloat16)


FORMS = {
    "NumPy": np.asarray,
    "in Fortran's order": np.asfortranarray,
    "objects": lambda x: x.astype(object),
    "a frame": frame,
    "a frame of nullable numbers": lambda x: frame(x).astype("Float64"),
    "a frame of several dtypes": mixed,
    "a polars frame": lambda x: pytest.importorskip("polars").DataFrame(
        dict(zip(NAMES, x.T, strict=True))
    ),
    "an Arrow table": lambda x: pytest.importorskip("pyarrow").table(
        dict(zip(NAMES, x.T, strict=True))
    ),
    "a narwhals frame": lambda x: pytest.importorskip("narwhals").from_native(frame(x)),
    "torch": torch_tensor,
    "torch with a gradient": lambda x: torch_tensor(x, requires_grad=True) * 1,
    "torch in bfloat16": bfloat16,
    "the backend's tensor": lambda x: keras.ops.convert_to_tensor(x, "float32"),
}
