"""The rules of `keras.ops` are true: single steps are changed, and what changes is compared."""

import inspect

import keras
import numpy as np
import pytest
from keras import ops
from time_steps import assert_as_derived, derive, mixes

from keras_stateful.carry.time_axis.along import END, Along
from keras_stateful.carry.time_axis.table import OPERATIONS as RULES
from keras_stateful.foundation import keras_internals

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch",
    reason="what is derived is the same on every backend, and torch compiles nothing for one call",
)

STEPS = 12
FRONT = ((0, 0), (3, 0), (0, 0))
TABLE = np.arange(12, dtype="float32").reshape(4, 3)
KERNEL = np.arange(1, 25, dtype="float32").reshape(2, 4, 3)


def network(function, shape=(4,), steps=STEPS):
    x = keras.Input((steps, *shape))
    return keras.Model(x, keras.tree.flatten(function(x))[0])


def names(model):
    """The operations in a model's graph."""
    nodes = keras_internals.nodes(model)
    return {keras_internals.operation_name(node.operation) for node in nodes} - {None}


# Functions of one tensor, or of two, are called as they are; here is how all others are called.
RIGHT = [
    lambda x: ops.leaky_relu(x, 0.2) + ops.celu(x) + ops.threshold(x, 0.5, 0.1),
    lambda x: ops.clip(x, -1, 1) + ops.nan_to_num(x) + ops.round(x, 1),
    lambda x: ops.where(x > 0, x, 0.1 * x) + ops.full_like(x, 2.0),
    lambda x: ops.cast(ops.digitize(x, np.array([-1.0, 0.0, 1.0])), "float32"),
    lambda x: ops.cast(ops.searchsorted(np.array([-1.0, 0.0, 1.0]), x[..., 0]), "float32"),
    lambda x: ops.cast(ops.isin(ops.round(x), np.arange(3.0)), "float32"),
    lambda x: ops.select([x > 1, x < -1], [x, 2 * x], 0.0),
    lambda x: ops.cast(ops.convert_to_tensor(ops.stop_gradient(x)), "float16"),
    lambda x: ops.saturate_cast(x, "int8"),
    lambda x: x * np.arange(4.0) + np.arange(1.0, 5.0),
    lambda x: ops.polar(ops.abs(x), x),
    lambda x: ops.binary_crossentropy(ops.sigmoid(x), ops.sigmoid(2 * x)),
    lambda x: x[..., 0],
    lambda x: x[:, :, None, 1:],
    lambda x: x[..., 2:],
    lambda x: ops.fft((x, 2 * x))[1],
    lambda x: ops.rfft(x)[0],
    lambda x: ops.irfft(ops.rfft(x)),
    # merged values, of other axes
    lambda x: ops.mean(x, axis=-1),
    lambda x: ops.std(x, axis=2, keepdims=True),
    lambda x: ops.logsumexp(x, axis=[2]),
    lambda x: ops.moments(x, axes=[2])[0],
    lambda x: ops.average(x, axis=-1, weights=np.arange(1.0, 5.0)),
    lambda x: ops.average(x, axis=-1, weights=ops.abs(x)),
    # of the features
    lambda x: ops.softmax(x),
    lambda x: ops.log_softmax(x, axis=-1),
    lambda x: ops.sparsemax(x),
    lambda x: ops.cumsum(x, axis=2),
    lambda x: ops.cumprod(x, axis=-1),
    lambda x: ops.flip(ops.sort(x), axis=-1),
    lambda x: ops.argsort(x),
    lambda x: ops.argpartition(x, 2),
    lambda x: ops.roll(x, 1, axis=-1),
    lambda x: ops.normalize(x),
    lambda x: ops.top_k(x, 2)[0],
    lambda x: ops.glu(x),
    lambda x: ops.rms_normalization(x),
    lambda x: ops.layer_normalization(x),
    lambda x: ops.batch_normalization(x, np.ones(4), np.ones(4), -1),
    lambda x: ops.diff(x, axis=-1),
    # products
    lambda x: ops.matmul(x, TABLE),
    lambda x: ops.matmul(TABLE.T, ops.transpose(x, (0, 2, 1))),
    lambda x: x @ ops.ones((1, 4, 3)),
    lambda x: ops.matmul(ops.expand_dims(x, 2), ops.expand_dims(x, 3)),
    lambda x: ops.matmul(x, np.arange(4.0)),
    lambda x: ops.dot(x, TABLE),
    lambda x: ops.tensordot(x, TABLE, axes=1),
    lambda x: ops.tensordot(x, TABLE.T, axes=[[2], [1]]),
    lambda x: ops.einsum("btf,fg->btg", x, TABLE),
    lambda x: ops.einsum("btf,btg->btfg", x, x),
    lambda x: ops.transpose(ops.einsum("btf,fg->gtb", x, TABLE)),
    # other axes
    lambda x: ops.concatenate([x, 2 * x], axis=-1),
    lambda x: ops.stack([x, 2 * x], axis=1),
    lambda x: ops.stack([x, x + 1], axis=-1),
    lambda x: ops.split(x, 2, axis=-1),
    lambda x: ops.array_split(x, 3, axis=2),
    lambda x: ops.unstack(x, axis=2),
    lambda x: ops.expand_dims(x, 1),
    lambda x: ops.expand_dims(x, (1, 3)),
    lambda x: ops.squeeze(ops.expand_dims(x, -1)),
    lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    lambda x: ops.transpose(x, (0, 2, 1)),
    lambda x: ops.transpose(ops.transpose(x)),
    lambda x: ops.swapaxes(x, 1, 2),
    lambda x: ops.moveaxis(x, 1, -1),
    lambda x: ops.moveaxis(ops.expand_dims(x, 0), [0, 2], [3, 1])[..., 0],
    lambda x: ops.reshape(x, (-1, STEPS, 2, 2)),
    lambda x: ops.reshape(x, (-1, STEPS, 4)),
    lambda x: ops.broadcast_to(x[:1, :, None], (1, STEPS, 5, 4)) + x[:, :, None],
    lambda x: ops.tile(x, (1, 1, 2)),
    lambda x: ops.tile(x, 2),
    lambda x: ops.repeat(x, 2, axis=-1),
    lambda x: ops.one_hot(ops.cast(ops.abs(x), "int32"), 4),
    lambda x: ops.one_hot(ops.cast(ops.abs(x), "int32"), 4, axis=1),
    lambda x: ops.take(x, [0, 2], axis=-1),
    lambda x: ops.take(TABLE, ops.cast(ops.abs(x), "int32"), axis=0),
    lambda x: ops.swapaxes(ops.take(TABLE, ops.cast(ops.abs(x) % 3, "int32"), axis=1), 0, 1),
    lambda x: ops.take_along_axis(x, ops.argsort(x, axis=-1), axis=-1),
    # steps: added, cut off, read together
    lambda x: ops.pad(x, FRONT),
    lambda x: ops.pad(x, ((0, 0), (0, 3), (0, 0))),
    lambda x: ops.pad(x, ((0, 0), (0, 0), (2, 1)), mode="constant", constant_values=1.0),
    lambda x: ops.pad(x, FRONT)[:, :-3],
    lambda x: ops.pad(x, FRONT, constant_values=1.0)[:, :-3],
    lambda x: x - ops.pad(x, FRONT)[:, :-3],
    lambda x: ops.pad(x, FRONT)[:, 3:],
    lambda x: x[:, 2:-3],
    lambda x: x[:, 3:, 1:3],
    lambda x: x[:, 1:] + x[:, :-1],
    lambda x: ops.diff(x, n=2, axis=1),
    lambda x: ops.conv(x, KERNEL, padding="valid"),
    lambda x: ops.conv(ops.pad(x, FRONT), KERNEL, dilation_rate=3),
    lambda x: ops.depthwise_conv(x, KERNEL, padding="valid"),
    lambda x: ops.separable_conv(x, KERNEL[..., :1], np.ones((1, 4, 2), "float32")),
    lambda x: ops.max_pool(x, 3, 1),
    lambda x: ops.average_pool(x, 2, 1),
    lambda x: ops.max_pool(x[:, :, :, None], (1, 2), (1, 2), padding="same"),
]

REDUCTIONS = [
    *("all", "any", "amax", "amin", "argmax", "argmin", "count_nonzero", "max", "mean", "median"),
    *("min", "prod", "ptp", "std", "sum", "var", "nanargmax", "nanargmin", "nanmax", "nanmean"),
    *("nanmedian", "nanmin", "nanprod", "nanstd", "nansum", "nanvar", "logsumexp"),
]

# What torch or JAX cannot run like this
DERIVED = [
    (lambda x: ops.norm(x, axis=-1), Along(1)),
    (lambda x: ops.norm(x, axis=1), "merges"),
    (ops.empty_like, Along(1)),
    (ops.imag, Along(1)),
    (ops.ravel, "mixes"),
    (lambda x: ops.nancumsum(x, axis=-1), Along(1)),
    (lambda x: ops.nancumprod(x, axis=1), "computes each time step from all others"),
    (lambda x: ops.slice(x, (0, 3, 0), (-1, -1, 4)), Along(1, -3, 0)),
    (lambda x: ops.slice(x, (0, 3, 0), (1, 4, 4)), "takes the steps 3 to 7"),
    (lambda x: ops.softmax(x, axis=(1, 2)), "computes each time step from all others"),
    (lambda x: ops.average(x, axis=1, weights=np.arange(STEPS)), "merges"),
    (lambda x: x[:, ::-1], "reads each window from its end"),
]

# What is right to refuse: it really mixes.
WRONG = [
    lambda x: ops.sum(x, axis=1, keepdims=True) + 0 * x,
    lambda x: ops.mean(x),
    lambda x: ops.max(x, axis=(1, 2)),
    lambda x: ops.softmax(x, axis=1),
    lambda x: ops.cumsum(x, axis=1),
    lambda x: ops.cumsum(x[..., 0]),
    lambda x: ops.cumsum(ops.cast(x > 0, "int32"), axis=1),
    lambda x: ops.sort(x, axis=1),
    lambda x: ops.flip(x, axis=1),
    lambda x: ops.flip(x),
    lambda x: ops.roll(x, 6, axis=1),
    lambda x: ops.roll(x, 1),
    lambda x: ops.normalize(x, axis=1),
    lambda x: ops.matmul(ops.transpose(x, (0, 2, 1)), x),
    lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))),
    lambda x: ops.tensordot(x, np.ones((STEPS, 2), "float32"), axes=[[1], [0]]),
    lambda x: ops.einsum("btf,bsf->bts", x, x),
    lambda x: ops.einsum("btf->bf", x),
    lambda x: ops.concatenate([0 * x[:, :1], x[:, :-1]], axis=1),
    lambda x: ops.unstack(x, axis=1)[0],
    lambda x: ops.split(x, 2, axis=1)[1],
    lambda x: ops.reshape(x, (-1, 4, STEPS)),
    lambda x: ops.reshape(x, (-1, STEPS * 4)),
    lambda x: ops.tile(x, (1, 2, 1)),
    lambda x: ops.repeat(x, 2, axis=1),
    lambda x: ops.take(x, [0, 2], axis=1),
    lambda x: ops.take_along_axis(x, ops.argsort(x, axis=1), axis=1),
    lambda x: ops.argsort(x, axis=1),
    lambda x: ops.pad(x, FRONT, mode="reflect")[:, :-3],
    lambda x: ops.pad(x[:, :-3], FRONT),
    lambda x: x[:, ::2],
    lambda x: x[:, :5],
    lambda x: x[:, 2:5],
    lambda x: x[:, -3:],
    lambda x: x[:, 0],
    lambda x: x[:, -2],
    lambda x: ops.conv(x, KERNEL, padding="same"),
    lambda x: ops.conv(x, KERNEL, strides=2),
    lambda x: ops.max_pool(x, 2, 2),
    lambda x: ops.cumsum(x, axis=1) * 0 + x,
    lambda x: x + x[:, -1:],
    lambda x: x[:, None] - x[:, :, None],
    lambda x: ops.expand_dims(x, 1) * ops.expand_dims(x, 2),
]

# One value for each step of a window, which a stream has not
FIXED = [
    lambda x: x * np.linspace(0, 1, STEPS, dtype="float32")[:, None],
    lambda x: x + ops.reshape(ops.arange(STEPS, dtype="float32"), (STEPS, 1)),
    lambda x: ops.concatenate([x, ops.ones((1, STEPS, 1))], axis=-1),
    lambda x: ops.where(ops.reshape(ops.arange(STEPS), (1, STEPS, 1)) > 3, x, 0),
    lambda x: ops.matmul(x, ops.ones((STEPS, 4, 2))[0]) * ops.ones((STEPS, 2)),
    lambda x: ops.einsum("btf,tf->btf", x, ops.ones((STEPS, 4))),
]


def plain_functions():
    """Each function of `keras.ops` that takes one tensor or two and has a rule."""
    for name, function in inspect.getmembers(ops, callable):
        if name in ("digitize", "isin", "searchsorted", "squeeze", "take", "empty_like"):
            continue  # the second tensor is a table; it needs to know the batch; it has any value
        for count in (1, 2):
            for dtype in ("float32", "int32", "bool"):
                x = keras.Input((STEPS, 4), dtype=dtype)
                try:
                    function(*[ops.ones((1, STEPS, 4), dtype)] * count)
                    model = keras.Model(x, keras.tree.flatten(function(*[x] * count))[0])
                except Exception:
                    continue
                (node,) = keras_internals.nodes(model)
                known = keras_internals.operation_name(node.operation)
                of_tensors = len(node.arguments.keras_tensors) == count
                if known in RULES and of_tensors and model.output_shape == (None, STEPS, 4):
                    yield known, name, function, count, dtype
                    break


PLAIN = {(name, count): (known, f, d) for known, name, f, count, d in plain_functions()}


def test_every_rule_is_tested():
    of_functions = {known for known, _, _ in PLAIN.values()}
    for function in (*RIGHT, *WRONG, *(function for function, _ in DERIVED)):
        of_functions |= names(network(function))
    for name in REDUCTIONS:
        function = getattr(ops, name)
        of_functions |= names(network(lambda x, function=function: function(x, axis=-1)))
    missing = RULES.keys() - of_functions
    assert missing <= {"ReLU", "Mish"}, missing  # of `keras.activations`


def test_operations_of_activations():
    for name in ("relu", "mish", "leaky_relu", "softmax"):
        assert_as_derived(network(keras.layers.Activation(name)), STEPS)


@pytest.mark.parametrize(("function", "expected"), DERIVED)
def test_what_is_derived_without_being_run(function, expected):
    hold = derive(network(function))
    assert hold == expected if isinstance(expected, Along) else expected in hold


@pytest.mark.parametrize("function", RIGHT, ids=lambda f: inspect.getsource(f).strip()[:60])
def test_what_an_operation_is_said_to_read_is_what_it_reads(function):
    assert_as_derived(network(function), STEPS)


@pytest.mark.parametrize(("name", "count"), PLAIN, ids=lambda p: str(p))
def test_functions_of_each_value(name, count):
    _, function, dtype = PLAIN[name, count]

    def apply(x):
        x = 2 * x if dtype == "float32" else ops.cast(x if dtype == "int32" else x > 0, dtype)
        if name in ("sinh", "binary_crossentropy"):
            x = ops.sigmoid(x)
        second = ops.logical_not(x) if dtype == "bool" else ops.maximum(ops.abs(x), 1)
        return function(*[x, second][:count])

    model = network(apply)
    hold = derive(model)
    if isinstance(hold, str):  # of all axes, by default
        assert mixes(model, STEPS)
        return
    assert not mixes(model, STEPS)
    assert hold == Along(1)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_merge_the_axes_that_they_name(name):
    function = getattr(ops, name)

    def prepared(x):
        return {"all": x > -1.5, "any": x > 1.5}.get(name, ops.floor(x))

    model = network(lambda x: function(prepared(x), axis=-1))
    if name == "count_nonzero":  # its shape in a graph is not the one that it has
        assert derive(model) == Along(1)
    else:
        assert_as_derived(model, STEPS)
    for axis in (1, None):
        assert "merges" in derive(network(lambda x, axis=axis: function(prepared(x), axis=axis)))


@pytest.mark.parametrize("function", WRONG, ids=lambda f: inspect.getsource(f).strip()[:60])
def test_what_an_operation_is_refused_for_is_true(function):
    model = network(function)
    assert isinstance(derive(model), str)
    assert mixes(model, STEPS) or "cumsum(x, axis=1) * 0" in inspect.getsource(function)


@pytest.mark.parametrize("function", FIXED, ids=lambda f: inspect.getsource(f).strip()[:60])
def test_one_value_for_each_step_of_a_window_is_refused(function):
    assert "one value for each time step of a window" in derive(network(function))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, -1],
        lambda x: x[:, -1:],
        lambda x: ops.pad(x, FRONT)[:, -3:],
        lambda x: ops.pad(x, FRONT)[:, -4],
    ],
)
def test_a_fixed_number_of_last_steps_is_the_end(function):
    assert derive(network(function)) is END
    assert derive(network(function, steps=None)) is END
