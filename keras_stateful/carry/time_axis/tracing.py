"""What a layer that nobody knows makes of time: it is called on symbolic tensors and read.

A custom layer, a `Lambda` or an activation function that is written in `keras.ops` computes nothing
when it is called on `KerasTensor`s. Keras records each operation instead, with its axes, and what
those make of time is derived like the calls of a graph:

    call(x, training) ──▶ record: matmul, softmax(axis=-1), multiply ──▶ what its outputs hold

for training and not, with an unknown number of time steps. Code that needs a number gets two, one
after the other, and what it does must come to the same.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_stateful.carry.graph import Call, Graph
from keras_stateful.carry.layers import plain_class
from keras_stateful.carry.time_axis.along import END, Along, Hold, Refused, Repeated, joined
from keras_stateful.carry.time_axis.derivation import Derivation, LinedUp, RefusedCall
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Tensor


def parts_below(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Every layer in a layer, however deep."""
    for part in keras_internals.sublayers(layer):
        yield part
        yield from parts_below(part)


def traced(call: Call, time: Derivation) -> list[Hold]:
    """What the outputs of a call hold whose layer or function nobody knows."""
    operation = call.operation
    if keras_internals.is_graph(operation):
        return _in_graph(call, time)
    cls: Any = plain_class(type(operation))
    function = cls.call.__get__(operation)
    parameters = inspect.signature(function).parameters
    call = _with_mask(call, parameters)
    modes = [{"training": mode} for mode in (False, True)] if "training" in parameters else [{}]
    results = [_Traced(call, time, function, mode).outputs() for mode in modes]
    return [_both(a, b) for a, b in zip(results[0], results[-1], strict=True)]


# Functions of Keras that ask the backend at once: of each value alone, and of the last axis
_OF_EACH_VALUE = (
    keras.activations.hard_silu,
    keras.activations.mish,
    keras.activations.threshold,
)
_OF_THE_LAST_AXIS = (keras.activations.sparsemax,)


def activated(function: Callable, hold: Along, tensor: Tensor, time: Derivation) -> Hold:
    """What an activation function leaves of a tensor with time."""
    if function in _OF_EACH_VALUE:
        return hold
    if function in _OF_THE_LAST_AXIS and hold.axis < len(tensor.shape) - 1:
        return hold
    call = Call("activation", _Function(function), (tensor,), {}, [tensor])
    try:
        (result,) = _Traced(call, time, function, {}, {id(tensor): hold}).outputs()
    except Refused as refused:
        name = getattr(function, "__name__", type(function).__name__)
        raise Refused(
            f"its activation `{name}`: {refused.why}",
            refused.remedy,
            keeps_axis=refused.keeps_axis,
            underivable=refused.underivable,
        ) from refused
    return result


class _Function:
    """A function in the place of an operation."""

    def __init__(self, function: Callable):
        self.function = function


def _with_mask(call: Call, parameters: Any) -> Call:
    """The call with the mask that Keras would give it, the mask of its first argument."""
    if "mask" not in parameters or "mask" in call.kwargs or len(call.args) != 1:
        return call
    if not isinstance(call.args[0], keras.KerasTensor):
        return call
    if keras_internals.mask_of(call.args[0]) is None:
        return call
    return call._replace(kwargs={**call.kwargs, "mask": _MASK})


_ROWS = 37  # where code needs to know how many; a number that sizes of features seldom have
_MASK = object()  # in the place of the mask, which is no tensor of the graph


def _both(a: Hold, b: Hold) -> Hold:
    """What an output holds that holds one thing in training and another at inference."""
    if a == b:
        return a
    if isinstance(a, Along) and isinstance(b, Along):
        return joined([a, b])
    raise Refused("it makes something else of time in training than at inference")


def _in_graph(call: Call, time: Derivation) -> list[Hold]:
    """What the outputs of a model hold that is called inside of a layer."""
    graph = Graph(call.operation)
    arguments = keras.tree.flatten(call.argument(0, "inputs"))
    holds: dict[int, Hold] = {
        id(t): hold
        for t, a in zip(graph.inputs, arguments, strict=True)
        if (hold := time.of(a)) is not None
    }
    inner = time.inside(holds)
    _run(inner, graph.calls)
    if inner.held or inner.recurrent:
        raise _hidden(inner)
    return [holds.get(id(t)) for t in graph.outputs]


def _run(inner: Derivation, calls: list[Call]) -> None:
    """Goes through calls inside a call, whose refusal is that of the call around them."""
    try:
        inner.run(calls)
    except RefusedCall as error:
        refused = error.refused
        if isinstance(refused, LinedUp):
            raise refused from error
        raise Refused(
            f"inside of it, `{error.call.path}`: {refused.why}",
            refused.remedy,
            keeps_axis=refused.keeps_axis,
            underivable=refused.underivable,
        ) from error


def _hidden(inner: Derivation) -> Refused:
    """The refusal of a layer that hides others which carry a state."""
    names = ", ".join(f"`{path}`" for path in [*inner.recurrent, *inner.held])
    return Refused(
        f"inside of it {names} would carry a state that nothing outside can reach",
        "Call the layers inside of it one by one in the Functional graph, or make it a sub-model "
        "(`keras.Sequential`, `keras.Model`).",
    )


class _Traced:
    """One call of a function on symbolic tensors.

    Args:
        call: with the arguments of the graph.
        time: what they hold.
        function: what is called.
        options: more arguments.
        holds: what the arguments hold, where `time` does not say it.
    """

    def __init__(
        self,
        call: Call,
        time: Derivation,
        function: Callable,
        options: dict[str, Any],
        holds: dict[int, Hold] | None = None,
    ):
        self.call, self.time, self.function, self.options = call, time, function, options
        self.arguments_hold = {
            id(t): hold
            for t in call.tensors
            if (hold := (holds or {}).get(id(t), time.of(t))) is not None
        }

    def outputs(self) -> list[Hold]:
        """What the outputs hold."""
        try:
            made, holds = self._record(None, None)
        except Exception as first:
            try:
                made, holds = self._record(_ROWS, None)
            except Exception:
                return self._with_numbers(first)
        return self._derive(made, holds, measured=False)

    def _with_numbers(self, first: Exception) -> list[Hold]:
        """The same where the code needs to know how many time steps there are."""
        sizes = {s for t in self.call.tensors for s in t.shape[1:]}
        free = [n for n in (11, 13, 17, 19, 23, 29, 31) if n not in sizes]
        results: list[list[Hold]] = []
        for steps in free[:2]:
            try:
                made, holds = self._record(_ROWS, steps)
            except Exception as error:
                raise Refused(
                    "whether it mixes time steps cannot be derived: it does not run on symbolic "
                    f"tensors ({_in_short(first)})",
                    "Write it in `keras.ops`.",
                    underivable=True,
                ) from error
            results.append(self._derive(made, holds, measured=True))
        if results[0] != results[1]:
            raise Refused("what it makes of time depends on the number of steps in a window")
        return results[0]

    # The record

    def _record(self, rows: int | None, steps: int | None) -> tuple[Any, dict[int, Hold]]:
        """The calls inside, for so many rows and time steps; what the symbolic arguments hold."""
        holds: dict[int, Hold] = {}
        self._symbols: dict[int, keras.KerasTensor] = {}

        def symbol(argument: Any) -> Any:
            if argument is _MASK:
                tensor = self.call.tensors[0]
                new = keras.KerasTensor(self._shape(tensor, rows, steps)[:2], dtype="bool")
                holds[id(new)] = self.arguments_hold.get(id(tensor))
                self._symbols[id(new)] = new
                return new
            if not isinstance(argument, keras.KerasTensor):
                return argument
            if id(argument) not in self._symbols:
                new = keras.KerasTensor(self._shape(argument, rows, steps), dtype=argument.dtype)
                self._symbols[id(argument)] = new
                holds[id(new)] = self.arguments_hold.get(id(argument))
            return self._symbols[id(argument)]

        args, kwargs = keras.tree.map_structure(symbol, (self.call.args, self.call.kwargs))
        scope = keras.StatelessScope(collect_losses=True)
        with scope:
            made = keras_internals.record(self.function, args, {**kwargs, **self.options})
        self._check_writes(keras_internals.values_by_id(scope))
        return made, {k: v for k, v in holds.items() if v is not None}

    def _shape(self, tensor: Tensor, rows: int | None, steps: int | None) -> tuple:
        hold = self.arguments_hold.get(id(tensor))
        shape = [rows, *tensor.shape[1:]]
        if isinstance(hold, (Along, Repeated)):
            lead = hold.lead if isinstance(hold, Along) else 0
            shape[hold.axis] = None if steps is None else steps + lead
        return tuple(shape)

    def _check_writes(self, written: dict[int, Any]) -> None:
        """Refuses a layer that at inference depends on how often it was called."""
        self._noisy = bool(written)
        if written and not self.options.get("training"):
            raise Refused(
                "it draws random numbers or counts at inference, so that its outputs depend on how "
                "often it was called (make that depend on `training`)"
            )

    # What it comes to

    def _derive(self, made: Any, holds: dict[int, Hold], measured: bool) -> list[Hold]:
        inner = self.time.inside(holds, measured=measured, noisy=self._noisy)
        known = {id(t) for t in self._symbols.values()}
        calls = []
        for node in made.nodes:
            args, kwargs = node.arguments.args, node.arguments.kwargs
            call = Call(node.operation.name, node.operation, args, kwargs, node.outputs)
            if any(id(t) not in known for t in call.tensors):
                raise Refused("it uses a tensor that it is not given", underivable=True)
            known.update(map(id, node.outputs))
            calls.append(call)
        try:
            _run(inner, calls)
        except LinedUp as lined_up:
            raise self._outside(lined_up, calls, measured) from lined_up
        outputs = [holds.get(id(t)) for t in keras.tree.flatten(made.outputs)]
        if len(outputs) != len(self.call.outputs):
            raise Refused("its outputs are others than in the graph", underivable=True)
        if inner.recurrent:
            raise _hidden(inner)
        return self._holding(inner, outputs) if inner.held else outputs

    def _outside(self, lined_up: LinedUp, calls: list[Call], measured: bool) -> Refused:
        """Says which argument it is that has to have time, if one is."""
        for argument in self.call.tensors:
            new = self._symbols[id(argument)]
            if id(argument) in self.arguments_hold or len(argument.shape) < 2:
                continue
            holds: dict[int, Hold] = {id(new): Along(1)}
            alone = self.time.inside(holds, measured=measured, searching=True)
            alone.run(calls)
            hold = holds.get(id(lined_up.tensor))
            if isinstance(hold, Along) and hold.axis == lined_up.axis:
                return LinedUp(argument, 1)
        return Refused(lined_up.why, lined_up.remedy)

    def _holding(self, inner: Derivation, outputs: list[Hold]) -> list[Hold]:
        """The outputs of a layer that pads its own input: the layer as a whole holds its past.

        It is then called on the past and the window, and as many outputs are dropped in front as
        steps were put there; what its own padding makes is among them.
        """
        source, *more = [t for t in self.call.tensors if id(t) in self.arguments_hold]
        steps = max(held.steps for held in inner.held.values())
        lead = self.time.along(source).lead
        if more or inner.held_tensors != {id(self._symbols[id(source)])}:
            raise _hidden(inner)
        if any(h is not END and not (isinstance(h, Along) and h.lead == lead) for h in outputs):
            raise _hidden(inner)
        self.time.hold(self.call, source, steps)
        return outputs


def _in_short(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words if len(words) < 200 else f"{words[:200]}..."
