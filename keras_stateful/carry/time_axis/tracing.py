"""What a layer that nobody knows makes of time: it is called on symbolic tensors and read.

A custom layer, a `Lambda` or an activation function that is written in `keras.ops` computes nothing
when it is called on `KerasTensor`s. Keras records each operation instead, with its axes, and what
those make of time is derived like the calls of a graph:

    call(x, training) ──▶ record: matmul, softmax(axis=-1), multiply ──▶ what its outputs hold

for training and not, with an unknown number of time steps and with a number; code that needs one
gets two, one after the other. All must come to the same.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

from keras_stateful.carry.graph import Call, Graph
from keras_stateful.carry.layers import plain_class
from keras_stateful.carry.time_axis.along import END, MERGED, Along, Hold, Refused, Repeated, joined
from keras_stateful.carry.time_axis.derivation import Derivation, LinedUp, RefusedCall
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Tensor


def parts_below(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Every layer in a layer, however deep."""
    for part in keras_internals.sublayers(layer):
        yield part
        yield from parts_below(part)


def traced(call: Call, time: Derivation) -> list[Hold]:
    """What the outputs of a call hold whose layer nobody knows."""
    operation = call.operation
    if keras_internals.is_graph(operation):
        return _in_graph(call, time)
    cls: Any = plain_class(type(operation))
    function = cls.call.__get__(operation)
    parameters = inspect.signature(function).parameters
    call = _with_mask(call, parameters)
    modes = [{"training": mode} for mode in (False, True)] if "training" in parameters else [{}]
    found = [_Traced(call, time, function, mode).result() for mode in modes]
    if steps := max(result.steps for result in found):
        (source,) = [t for t in call.tensors if time.of(t) is not None]
        time.hold(call, source, steps)
    outputs = [_both(a, b) for a, b in zip(found[0].outputs, found[-1].outputs, strict=True)]
    if time.searching:
        return [_still_along(call, time, *pair) for pair in zip(call.outputs, outputs, strict=True)]
    return outputs


def activated(function: Callable, hold: Along, tensor: Tensor, time: Derivation) -> Hold:
    """What an activation function leaves of a tensor with time."""
    operation: Any = function
    call = Call("activation", operation, (tensor,), {}, [tensor])
    alone = time.inside({id(tensor): hold})
    try:
        (outputs, steps) = _Traced(call, alone, function, {}).result()
        if steps:
            raise Refused("it puts steps in front of a window")
    except Refused as refused:
        name = getattr(function, "__name__", type(function).__name__)
        raise refused.within(f"its activation `{name}`") from refused
    return outputs[0]


def _with_mask(call: Call, parameters: Any) -> Call:
    """The call with the mask that Keras would give it, the mask of its first argument."""
    if "mask" not in parameters or "mask" in call.kwargs or len(call.args) != 1:
        return call
    if not isinstance(call.args[0], keras.KerasTensor):
        return call
    if keras_internals.mask_of(call.args[0]) is None:
        return call
    return call._replace(kwargs={**call.kwargs, "mask": _MASK})


# For code that needs to know how many: more steps than most layers reach back
_STEPS = (211, 223, 227, 229, 233, 239, 241)
_MASK = object()  # in the place of the mask, which is no tensor of the graph


def _both(a: Hold, b: Hold) -> Hold:
    """What an output holds that holds one thing in training and another at inference."""
    if a == b:
        return a
    if isinstance(a, Along) and isinstance(b, Along):
        return joined([a, b])
    raise Refused("it makes something else of time in training than at inference")


def _still_along(call: Call, time: Derivation, output: Tensor, hold: Hold) -> Hold:
    """What an output holds, where time is searched for, of a layer that merges steps inside."""
    for tensor in call.tensors:
        source = time.of(tensor)
        alike = len(tensor.shape) == len(output.shape)
        if hold is MERGED and alike and isinstance(source, Along):
            return source._replace(lead=0, past=None)
    return hold


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
        raise refused.within(f"inside of it, `{error.call.path}`") from error


def _hidden(inner: Derivation) -> Refused:
    """The refusal of a layer that hides others which carry a state."""
    names = ", ".join(f"`{path}`" for path in [*inner.recurrent, *inner.held])
    return Refused(
        f"inside of it {names} would carry a state that nothing outside can reach",
        "Call the layers inside of it one by one in the Functional graph, or make it a sub-model "
        "(`keras.Sequential`, `keras.Model`).",
    )


class _Result(NamedTuple):
    """What is derived of a call.

    Attributes:
        outputs: what they hold.
        steps: how many of the last steps of its input the call holds.
    """

    outputs: list[Hold]
    steps: int


class _Record(NamedTuple):
    """What a function did on symbolic tensors.

    Attributes:
        calls: that it made.
        symbols: its arguments, by the id of what they stand for.
        outputs: what it returned.
        wrote: whether it wrote variables: counters, or the seeds of random numbers.
    """

    calls: list[Call]
    symbols: dict[int, keras.KerasTensor]
    outputs: list
    wrote: bool


class _Traced:
    """One call of a function on symbolic tensors.

    Args:
        call: with the arguments of the graph.
        time: what they hold.
        function: what is called.
        options: more arguments.
    """

    def __init__(self, call: Call, time: Derivation, function: Callable, options: dict[str, Any]):
        self.call, self.time, self.function, self.options = call, time, function, options

    def result(self) -> _Result:
        """What is derived of the call.

        Two records have to agree: one without a number of time steps, where the code runs so, and
        one with a number; or two with numbers. Code that asks for the shape may do another thing
        where it is told that nobody knows.
        """
        sizes = {s for t in self.call.tensors for s in t.shape[1:]}
        missing = [h.lead for t in self.call.tensors if isinstance(h := self.time.of(t), Along)]
        numbers = [n - min([0, *missing]) for n in _STEPS if n not in sizes]
        results: list[_Result] = []
        errors: list[Exception] = []
        for rows, steps in ((None, None), (2, None), (3, numbers[0]), (2, numbers[1])):
            if len(results) == 2 or (results and steps is None):
                continue
            record = self._record(rows, steps)
            if isinstance(record, _Record):
                results.append(self._derive(record, (rows, steps)))
            else:
                errors.append(record)
        if len(results) < 2:
            raise Refused(
                "whether it mixes time steps cannot be derived: it does not run on symbolic "
                f"tensors ({_in_short(errors[0])})",
                "Write it in `keras.ops`.",
                underivable=True,
            )
        if results[0] != results[1]:
            raise Refused("what it makes of time depends on the number of steps in a window")
        return results[0]

    # The record

    def _record(self, rows: int | None, steps: int | None) -> _Record | Exception:
        """What the function does for so many rows and time steps, looked at once; or why not."""
        shapes = {id(t): self._shape(t, rows, steps) for t in self.call.tensors}
        mode = tuple(self.options.items())
        key = (id(self.call.outputs[0]), id(self.call.operation), mode, *shapes.items())
        if key not in self.time.records:
            try:
                self.time.records[key] = self._run(shapes)
            except Exception as error:
                self.time.records[key] = error
        return self.time.records[key]

    def _shape(self, tensor: Tensor, rows: int | None, steps: int | None) -> tuple:
        hold = self.time.of(tensor)
        shape = [rows, *tensor.shape[1:]]
        if isinstance(hold, (Along, Repeated)):
            lead, in_rows = (hold.lead, hold.in_rows) if isinstance(hold, Along) else (0, False)
            size = None if steps is None else steps + lead
            if in_rows and size is not None:
                size = None if rows is None else rows * size
            shape[hold.axis] = size
        return tuple(shape)

    def _run(self, shapes: dict[int, tuple]) -> _Record:
        symbols: dict[int, keras.KerasTensor] = {}

        def symbol(argument: Any) -> Any:
            if argument is _MASK:
                (rows, steps, *_) = shapes[id(self.call.tensors[0])]
                symbols[id(_MASK)] = keras.KerasTensor((rows, steps), dtype="bool")
                return symbols[id(_MASK)]
            if not isinstance(argument, keras.KerasTensor):
                return argument
            if id(argument) not in symbols:
                new = keras.KerasTensor(shapes[id(argument)], dtype=argument.dtype)
                symbols[id(argument)] = new
            return symbols[id(argument)]

        args, kwargs = keras.tree.map_structure(symbol, (self.call.args, self.call.kwargs))
        scope = keras.StatelessScope(collect_losses=True)
        with scope:
            made = keras_internals.record(self.function, args, {**kwargs, **self.options})
        calls = [
            Call(n.operation.name, n.operation, n.arguments.args, n.arguments.kwargs, n.outputs)
            for n in made.nodes
        ]
        outputs = keras.tree.flatten(made.outputs)
        return _Record(calls, symbols, outputs, bool(keras_internals.values_by_id(scope)))

    # What it comes to

    def _derive(self, record: _Record, window: tuple[int | None, int | None]) -> _Result:
        if record.wrote and not self.options.get("training"):
            raise Refused(
                "it draws random numbers or counts at inference, so that its outputs depend on how "
                "often it was called (make that depend on `training`)"
            )
        known = {id(t) for t in record.symbols.values()}
        for call in record.calls:
            if any(id(t) not in known for t in call.tensors):
                raise Refused("it uses a tensor that it is not given", underivable=True)
            known.update(map(id, call.outputs))
        holds = {id(new): self._held_by(argument) for argument, new in record.symbols.items()}
        holds = {tensor: hold for tensor, hold in holds.items() if hold is not None}
        inner = self.time.inside(holds, window=window, noisy=record.wrote)
        try:
            _run(inner, record.calls)
        except LinedUp as lined_up:
            raise self._outside(lined_up, record, window) from lined_up
        outputs = [holds.get(id(t)) for t in record.outputs]
        if len(outputs) != len(self.call.outputs):
            raise Refused("its outputs are others than in the graph", underivable=True)
        if inner.recurrent:
            raise _hidden(inner)
        return _Result(outputs, self._held_steps(inner, record, outputs) if inner.held else 0)

    def _held_by(self, argument: int) -> Hold:
        """What an argument holds, by its id; a mask has a value for each step of the first one."""
        if argument != id(_MASK):
            return self.time.holds.get(argument)
        return self.time.of(self.call.tensors[0])

    def _outside(self, lined_up: LinedUp, record: _Record, window: tuple) -> Refused:
        """Says which argument it is that has to have time, if one is."""
        for argument in self.call.tensors:
            if self.time.of(argument) is not None or len(argument.shape) < 2:
                continue
            holds: dict[int, Hold] = {id(record.symbols[id(argument)]): Along(1)}
            alone = self.time.inside(holds, window=window, searching=True)
            alone.run(record.calls)
            hold = holds.get(id(lined_up.tensor))
            if isinstance(hold, Along) and hold.axis == lined_up.axis:
                return LinedUp(argument, 1)
        return Refused(lined_up.why, lined_up.remedy)

    def _held_steps(self, inner: Derivation, record: _Record, outputs: list[Hold]) -> int:
        """How many steps a layer holds that pads its own input: as a whole it holds its past.

        It is then called on the past and the window, and as many outputs are dropped in front as
        steps were put there; what its own padding makes is among them.
        """
        source, *more = [t for t in self.call.tensors if self.time.of(t) is not None]
        if more or inner.held_tensors != {id(record.symbols[id(source)])}:
            raise _hidden(inner)
        lead = self.time.along(source).lead
        if any(h is not END and not (isinstance(h, Along) and h.lead == lead) for h in outputs):
            raise _hidden(inner)
        return max(held.steps for held in inner.held.values())


def _in_short(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words if len(words) < 200 else f"{words[:200]}..."
