"""Which layers of a model run along its time axis, and which of them would be wrong at window
edges.

Time is axis 1 of the inputs that reach a recurrent layer. A layer is *local* in time if a window's
result does not depend on where the window was cut; recurrent layers are not, and carry a state
instead. Any other layer along time must be local: what is known is looked up, the rest (custom
layers, `keras.ops` calls) is tried on random numbers, once whole and once cut in two.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from keras_stateful.carry.graph import Call, Graph, Unconvertible

_LOCAL = (
    layers.Activation, layers.ActivityRegularization, layers.BatchNormalization, layers.Dense, layers.Dropout,
    layers.ELU, layers.Embedding, layers.GaussianDropout, layers.GaussianNoise, layers.Identity, layers.LeakyReLU,
    layers.Masking, layers.PReLU, layers.ReLU, layers.Rescaling, layers.SpatialDropout1D, layers.SpatialDropout2D,
    layers.SpatialDropout3D, layers.TimeDistributed,
    layers.Add, layers.Average, layers.Maximum, layers.Minimum, layers.Multiply, layers.Subtract,
)  # fmt: skip

_MIXES = {
    layers.Bidirectional: "its backward half reads the window from the end, where the next window is not known yet",
    layers.Flatten: "it merges the time steps of a window into one vector",
    layers.GlobalAveragePooling1D: "it averages over the window, not over the stream",
    layers.GlobalMaxPooling1D: "it takes the maximum of the window, not of the stream",
    layers.AveragePooling1D: "it mixes neighbouring time steps, across which windows are cut",
    layers.MaxPooling1D: "it mixes neighbouring time steps, across which windows are cut",
    layers.Attention: "it attends within the window alone",
    layers.AdditiveAttention: "it attends within the window alone",
    layers.MultiHeadAttention: "it attends within the window alone",
    layers.GroupQueryAttention: "it attends within the window alone",
}


class TimeAxis(NamedTuple):
    """What runs along the model's time axis.

    Attributes:
        recurrent: paths of the recurrent layers along time, in the order of their first call.
        calls: for each path the number of calls.
        inputs: ids of the model's input tensors that have a time axis.
        outputs: for each model output, whether it has a time axis.
        initial_state_given: paths of recurrent layers that the graph gives an `initial_state`.
    """

    recurrent: list[str]
    calls: dict[str, int]
    inputs: set[int]
    outputs: list[bool]
    initial_state_given: set[str]


def find_time_axis(graph: Graph, chosen: list[str] | None = None) -> TimeAxis:
    """Follows time through a model's graph.

    Args:
        graph: of the model.
        chosen: paths of the layers that are to carry; by default all along time. Where given,
            layers that mix time steps are accepted unless a chosen layer reads from them.

    Raises:
        ValueError: a layer that cannot be right when the stream is cut into windows, by path.
    """
    calls, producer = graph.calls, graph.producers
    along_time = (layers.RNN, layers.Bidirectional)
    sequences = [c.sequences for c in calls if isinstance(c.operation, along_time)]
    sources = _upstream(sequences, producer, stop=layers.RepeatVector)
    temporal = {id(t) for t in graph.inputs if id(t) in sources}
    checked = None
    if chosen is not None:
        checked = _upstream(
            [c.sequences for c in calls if c.path in chosen], producer, stop=layers.RepeatVector
        )

    found: dict[str, int] = {}
    given: set[str] = set()
    ends: set[int] = (
        set()
    )  # tensors without the time axis that hold what is known at the window's end
    for call in calls:
        given_here = call.tensors
        if not any(id(t) in temporal for t in given_here):
            if any(id(t) in ends for t in given_here):
                ends.update(map(id, call.outputs))
            continue
        ignore = checked is not None and not any(id(t) in checked for t in call.outputs)
        if not ignore and any(id(t) in ends for t in given_here):
            raise _refusal(
                call,
                "its time steps are given what is known at the end of the window, which is not the "
                "end of the stream",
            )
        if call.is_recurrent:
            if id(call.sequences) not in temporal:
                continue
            found[call.path] = found.get(call.path, 0) + 1
            if call.initial_state is not None:
                given.add(call.path)
            if call.operation.go_backwards and (chosen is None or call.path in chosen):
                raise _refusal(
                    call,
                    "it reads each window from the end, where the next window is not known yet",
                )
            goes_on: list[bool | None] = [call.operation.return_sequences] + [False] * (
                len(call.outputs) - 1
            )
        else:
            goes_on = _follow(call, temporal, ignore)
        for tensor, has_time in zip(call.outputs, goes_on, strict=True):
            if has_time is not None:
                (temporal if has_time else ends).add(id(tensor))
    return TimeAxis(
        list(found),
        found,
        {id(t) for t in graph.inputs if id(t) in temporal},
        [id(t) in temporal for t in graph.outputs],
        given,
    )


def _upstream(tensors: list, producer: dict[int, Call], stop: type) -> set[int]:
    """Ids of all tensors whose time axis reaches one of `tensors`; `stop` makes a time axis of its
    own.
    """
    seen: set[int] = set()
    todo = [t for t in tensors if t is not None]
    while todo:
        tensor = todo.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        call = producer.get(id(tensor))
        if call is None or isinstance(call.operation, stop):
            continue
        if call.is_recurrent:
            if call.operation.return_sequences:
                todo.append(call.sequences)
        else:
            given = [t for t in call.tensors if len(t.shape) > 1]
            todo += [t for t in given if not _is_broadcast(t, given, tensor)]
    return seen


def _is_broadcast(tensor: Any, given: list, output: Any) -> bool:
    """Whether a call's tensor is the same at all time steps of another one that it meets there, as
    what says who speaks.
    """
    if tensor.shape[1] != 1 or len(output.shape) < 2 or output.shape[1] == 1:
        return False
    return any(t.shape[1] == output.shape[1] for t in given)


def _refusal(call: Call, why: str) -> Unconvertible:
    layer = call.operation
    details = [type(layer).__name__]
    if getattr(layer, "kernel_size", None) is not None:
        details.append(
            f"kernel_size={layer.kernel_size[0] if len(layer.kernel_size) == 1 else layer.kernel_size}"
        )
    return Unconvertible(
        f"`to_stateful` cannot carry `{call.path}` ({', '.join(details)}): {why}. Move it behind "
        "the recurrent layers' time axis, or keep it out with `layers=[...]`."
    )


def _follow(call: Call, temporal: set[int], ignore: bool) -> list[bool | None]:
    """For each output whether it has the time axis; None: it says nothing of the window. Raises
    where not local in time.
    """
    layer = call.operation
    if isinstance(layer, layers.TimeDistributed):
        inner = layer.layer
        if getattr(inner, "stateful", False):
            raise _refusal(
                call,
                "the stateful layer inside it would carry state from slice to slice of one call",
            )
        return [True] * len(call.outputs)
    if type(layer) in _MIXES and not ignore:
        raise _refusal(call, _MIXES[type(layer)])
    if _is_local(layer) and not _normalises_time(call):
        return [True] * len(call.outputs)
    try:
        return _try_out(call, temporal, ignore)
    except _NotLocal as error:
        if ignore:
            return [False] * len(call.outputs)
        raise _refusal(call, str(error)) from None


def _is_local(layer: Any) -> bool:
    """Whether a layer is known to be local in time; a subclass with a `call` of its own is not
    known.
    """
    return any(isinstance(layer, known) and type(layer).call is known.call for known in _LOCAL)


def _normalises_time(call: Call) -> bool:
    """Whether a `BatchNormalization` has a mean for each time step of the window."""
    if not isinstance(call.operation, layers.BatchNormalization):
        return False
    return call.operation.axis % len(call.outputs[0].shape) == 1


class _NotLocal(Exception):
    pass


def _try_out(call: Call, temporal: set[int], ignore: bool, steps: int = 6) -> list[bool | None]:
    """Runs one call on random numbers: the whole window, and its two halves.

    Args:
        call: whose outputs are asked for.
        temporal: ids of the tensors that have the time axis.
        ignore: whether the call may mix time steps; then only shapes count.
    """
    tensors = call.tensors
    fixed = [t.shape[1] for t in tensors if id(t) in temporal and t.shape[1] is not None]
    steps = max([f for f in fixed if f > 1], default=steps)
    batch = next((t.shape[0] for t in tensors if t.shape[0] is not None), 2)
    rng = np.random.default_rng(0)
    values = {id(t): _random(rng, t, id(t) in temporal, batch, steps) for t in tensors}

    def run(part: slice) -> list[np.ndarray]:
        def value(t):
            if not isinstance(t, keras.KerasTensor):
                return t
            array = values[id(t)][:, part] if id(t) in temporal else values[id(t)]
            return ops.convert_to_tensor(array, dtype=t.dtype)

        args, kwargs = keras.tree.map_structure(value, (call.args, call.kwargs))
        return [
            ops.convert_to_numpy(o) for o in keras.tree.flatten(call.operation(*args, **kwargs))
        ]

    cut = steps // 2
    with keras.StatelessScope():  # leaves counters and seeds of the layer alone
        try:
            whole, again = run(slice(0, steps)), run(slice(0, steps))
        except Exception as error:
            raise _NotLocal(
                f"whether it mixes time steps could not be tried out ({error})"
            ) from error
        if not ignore and not all(map(_close, whole, again)):
            raise _NotLocal(
                "it draws random numbers or counts at inference, so whether it mixes time steps "
                "cannot be tried out (make that depend on `training`)"
            )
        try:
            first, second = run(slice(0, cut)), run(slice(cut, steps))
        except Exception as error:
            raise _NotLocal("its result depends on the number of time steps in a window") from error

    along_time: list[bool | None] = []
    for w, a, b in zip(whole, first, second, strict=True):
        if w.ndim > 1 and w.shape[1] == steps and a.ndim > 1 and a.shape[1] == cut:
            if not ignore and not _close(w, np.concatenate([a, b], axis=1)):
                raise _NotLocal(
                    "it mixes neighbouring time steps and would see zeros at the start of every "
                    "window"
                )
            along_time.append(True)
        elif ignore or (w.shape == b.shape and _close(w, b)):
            along_time.append(
                False if ignore else None
            )  # the window's last step, or nothing of the window
        else:
            raise _NotLocal("it merges the time steps of a window")
    if None in along_time:
        with keras.StatelessScope():
            try:
                shorter = [run(slice(0, k)) for k in range(1, cut)]
            except Exception as error:
                raise _NotLocal(
                    "its result depends on the number of time steps in a window"
                ) from error
        for i, w in enumerate(whole):
            if along_time[i] is None and not all(_close(w, s[i]) for s in [*shorter, first]):
                along_time[i] = False
    return along_time


def _random(
    rng: np.random.Generator, tensor: Any, along_time: bool, batch: int, steps: int
) -> np.ndarray:
    shape = [batch, *(3 if d is None else d for d in tensor.shape[1:])]
    if along_time:
        shape[1] = steps
    if "int" in tensor.dtype or tensor.dtype == "bool":
        return rng.integers(0, 2, shape)
    return rng.standard_normal(shape).astype("float32")


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape:
        return False
    return bool(np.allclose(a.astype("float32"), b.astype("float32"), rtol=1e-3, atol=1e-4))
