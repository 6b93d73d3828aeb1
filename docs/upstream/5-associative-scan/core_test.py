"""To be added to `keras/src/ops/core_test.py`, to `CoreOpsDtypeTest`."""

import numpy as np
from absl.testing import parameterized

from keras.src import backend
from keras.src import ops
from keras.src import testing
from keras.src.backend.common import standardize_dtype


class AssociativeScanDtypeTest(testing.TestCase):
    @parameterized.product(
        dtype=["bfloat16", "float16", "float32", "float64", "int32", "bool"],
        length=[1, 2, 7],
    )
    def test_associative_scan_dtype(self, dtype, length):
        reverse = length == 7
        if dtype == "float64" and backend.backend() == "jax":
            self.skipTest("JAX has no float64 by default.")
        x = ops.cast(np.arange(1, 2 * length + 1).reshape(length, 2) % 3, dtype)
        operation = ops.logical_or if dtype == "bool" else ops.maximum
        y = ops.associative_scan(operation, x, reverse=reverse)
        self.assertEqual(standardize_dtype(y.dtype), dtype)
        expected = ops.convert_to_numpy(ops.cast(x, "float32"))
        if reverse:
            expected = np.maximum.accumulate(expected[::-1])[::-1]
        else:
            expected = np.maximum.accumulate(expected)
        self.assertAllClose(ops.cast(y, "float32"), expected)

    def test_associative_scan_complex(self):
        if backend.backend() == "tensorflow":
            self.skipTest("`ops.multiply` rounds complex numbers otherwise.")
        x = np.full((5,), 1j, "complex64")
        y = ops.associative_scan(ops.multiply, ops.convert_to_tensor(x))
        self.assertAllClose(
            ops.convert_to_numpy(y), np.cumprod(x), atol=1e-5, rtol=1e-5
        )

    def test_associative_scan_dtypes_differ(self):
        elements = (
            ops.ones((6, 2), "bfloat16"),
            ops.ones((6, 2), "int32"),
        )
        y = ops.associative_scan(
            lambda a, b: (a[0] * b[0], a[1] + b[1]), elements
        )
        self.assertEqual(
            [standardize_dtype(part.dtype) for part in y],
            ["bfloat16", "int32"],
        )
        self.assertAllClose(y[1][:, 0], np.arange(1, 7))
