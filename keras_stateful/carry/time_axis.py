"""Which layers run along a model's time axis, and which of those are wrong at window edges.

Time is axis 1 of the inputs that reach a recurrent layer. A layer is *local* in time if a window's
result does not depend on where the window was cut; recurrent layers are not, and carry a state
instead. Any other layer along time must be local: what is known is looked up, the rest (custom
layers, `keras.ops` calls) is tried on random numbers (`probing`).
"""

from typing import NamedTuple

import keras
from keras import layers

from keras_stateful.carry.graph import Call, Graph, Unconvertible
from keras_stateful.carry.probing import Holds, NotLocal, probe

_LOCAL = (
    layers.Activation, layers.ActivityRegularization, layers.BatchNormalization, layers.Dense,
    layers.Dropout, layers.ELU, layers.Embedding, layers.GaussianDropout, layers.GaussianNoise,
    layers.Identity, layers.LeakyReLU, layers.Masking, layers.PReLU, layers.ReLU,
    layers.Rescaling, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D,
    layers.TimeDistributed,
    layers.Add, layers.Average, layers.Maximum, layers.Minimum, layers.Multiply, layers.Subtract,
)  # fmt: skip

_FROM_THE_END = "from the end, where the next window is not known yet"
_POOLS = "it mixes neighbouring time steps, across which windows are cut"
_ATTENDS = "it attends within the window alone"

# Why a layer class is not local
_MIXES = {
    layers.Bidirectional: f"its backward half reads the window {_FROM_THE_END}",
    layers.Flatten: "it merges the time steps of a window into one vector",
    layers.GlobalAveragePooling1D: "it averages over the window, not over the stream",
    layers.GlobalMaxPooling1D: "it takes the maximum of the window, not of the stream",
    layers.AveragePooling1D: _POOLS,
    layers.MaxPooling1D: _POOLS,
    layers.Attention: _ATTENDS,
    layers.AdditiveAttention: _ATTENDS,
    layers.MultiHeadAttention: _ATTENDS,
    layers.GroupQueryAttention: _ATTENDS,
}


# What reads its input along time
_ALONG_TIME = (layers.RNN, layers.Bidirectional)


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
    time = _Time(graph, chosen)
    for call in graph.calls:
        time.follow(call)
    return TimeAxis(
        list(time.calls),
        time.calls,
        {id(t) for t in graph.inputs if id(t) in time.temporal},
        [id(t) in time.temporal for t in graph.outputs],
        time.initial_state_given,
    )


class _Time:
    """What is known of time, while the calls of a graph are gone through in order.

    Attributes:
        temporal: ids of the tensors that have the time axis.
        ends: ids of the tensors without it that hold what is known at the end of the window.
        calls: of each recurrent layer along time, by path, the number of calls so far.
        initial_state_given: paths of those that the graph gives an `initial_state`.
    """

    def __init__(self, graph: Graph, chosen: list[str] | None):
        self._chosen = chosen
        # Time begins at the inputs from which a layer reads it.
        readers = [c for c in graph.calls if isinstance(c.operation, _ALONG_TIME)]
        sources = _upstream(readers, graph)
        self.temporal = {id(t) for t in graph.inputs if id(t) in sources}
        self.ends: set[int] = set()
        self.calls: dict[str, int] = {}
        self.initial_state_given: set[str] = set()
        # Where the user chose, time steps may be mixed behind the last layer that carries.
        self._read_by_chosen: set[int] | None = None
        if chosen is not None:
            carrying = [c for c in graph.calls if c.path in chosen]
            self._read_by_chosen = _upstream(carrying, graph)

    def follow(self, call: Call) -> None:
        """Notes what the outputs of a call hold, once those of all calls before are known."""
        reads_ends = any(id(t) in self.ends for t in call.tensors)
        if not any(id(t) in self.temporal for t in call.tensors):
            # Whatever is made of a window's end alone is an end as well: a head, a second network.
            if reads_ends:
                self.ends.update(map(id, call.outputs))
            return
        may_mix = self._may_mix(call)
        if reads_ends and not may_mix:
            raise _refusal(
                call,
                "its time steps are given what is known at the end of the window, which is not the "
                "end of the stream",
            )
        for tensor, holds in zip(call.outputs, self._held(call, may_mix), strict=True):
            if holds is Holds.TIME:
                self.temporal.add(id(tensor))
            elif holds is Holds.END:
                self.ends.add(id(tensor))

    def _may_mix(self, call: Call) -> bool:
        """True if the user chose the layers that carry, and none of them reads from this call."""
        read = self._read_by_chosen
        return read is not None and not any(id(t) in read for t in call.outputs)

    def _held(self, call: Call, may_mix: bool) -> list[Holds]:
        """What the outputs of a call hold that is given a tensor with the time axis."""
        if not call.is_recurrent:
            return _outputs_of(call, self.temporal, may_mix)
        if id(call.sequences) not in self.temporal:  # time reaches its initial state alone
            return [Holds.CONSTANT] * len(call.outputs)
        layer, path = call.operation, call.path
        self.calls[path] = self.calls.get(path, 0) + 1
        if call.initial_state is not None:
            self.initial_state_given.add(path)
        if layer.go_backwards and (self._chosen is None or path in self._chosen):
            raise _refusal(call, f"it reads each window {_FROM_THE_END}")
        output = Holds.TIME if layer.return_sequences else Holds.END
        return [output, *[Holds.END] * (len(call.outputs) - 1)]  # its states come behind


def _upstream(readers: list[Call], graph: Graph) -> set[int]:
    """Ids of all tensors whose time axis reaches what one of the calls reads, that included."""
    seen: set[int] = set()
    remaining = [call.sequences for call in readers]
    while remaining:
        tensor = remaining.pop()
        if tensor is None or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        call = graph.producers.get(id(tensor))
        if call is None or isinstance(call.operation, layers.RepeatVector):
            continue  # an input; or a layer that makes a time axis of its own
        if call.is_recurrent:
            if call.operation.return_sequences:
                remaining.append(call.sequences)
        else:
            arguments = [t for t in call.tensors if len(t.shape) > 1]
            remaining += [t for t in arguments if not _is_broadcast(t, arguments, tensor)]
    return seen


def _is_broadcast(
    tensor: keras.KerasTensor, arguments: list[keras.KerasTensor], output: keras.KerasTensor
) -> bool:
    """True if an argument of a call is the same at all time steps of another, as who speaks is.

    Such a tensor has one time step, `(batch, 1, ...)`, where the other and the output have more.
    """
    if tensor.shape[1] != 1 or len(output.shape) < 2 or output.shape[1] == 1:
        return False
    return any(t.shape[1] == output.shape[1] for t in arguments)


def _outputs_of(call: Call, temporal: set[int], may_mix: bool) -> list[Holds]:
    """What the outputs of a call hold that is not recurrent; refuses what is not local in time."""
    layer = call.operation
    if isinstance(layer, layers.TimeDistributed):
        if getattr(layer.layer, "stateful", False):
            raise _refusal(
                call,
                "the stateful layer inside it would carry state from slice to slice of one call",
            )
        return [Holds.TIME] * len(call.outputs)
    if type(layer) in _MIXES and not may_mix:
        raise _refusal(call, _MIXES[type(layer)])
    if _is_local(call):
        return [Holds.TIME] * len(call.outputs)
    try:
        return probe(call, temporal, may_mix)
    except NotLocal as error:
        if may_mix:
            return [Holds.END] * len(call.outputs)
        raise _refusal(call, str(error)) from None


def _is_local(call: Call) -> bool:
    """True if a layer is known to be local; a subclass with a `call` of its own is not known."""
    layer = call.operation
    if isinstance(layer, layers.BatchNormalization) and _is_axis_one(layer.axis, call.outputs[0]):
        return False  # it has a mean for each time step of the window
    return any(isinstance(layer, known) and type(layer).call is known.call for known in _LOCAL)


def _is_axis_one(axis: int, tensor: keras.KerasTensor) -> bool:
    return axis % len(tensor.shape) == 1


def _refusal(call: Call, why: str) -> Unconvertible:
    layer = call.operation
    details = [type(layer).__name__]
    kernel = getattr(layer, "kernel_size", None)
    if kernel is not None:
        details.append(f"kernel_size={kernel[0] if len(kernel) == 1 else kernel}")
    return Unconvertible(
        f"`to_stateful` cannot carry `{call.path}` ({', '.join(details)}): {why}. Move it behind "
        "the recurrent layers' time axis, or keep it out with `layers=[...]`."
    )
