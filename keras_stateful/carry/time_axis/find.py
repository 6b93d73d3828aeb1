"""Which layers run along a model's time axis, what they hold, and why a model is refused."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from keras_stateful.carry.graph import Call, Graph, Unconvertible
from keras_stateful.carry.layers import plain_class
from keras_stateful.carry.register import is_registered
from keras_stateful.carry.time_axis.along import Along, Held, Hold, Refused, Repeated
from keras_stateful.carry.time_axis.derivation import Derivation, LinedUp, RefusedCall, Rule
from keras_stateful.carry.time_axis.inputs import Searches
from keras_stateful.carry.time_axis.keras_layers import carried_by_adapter, rule_of_layer
from keras_stateful.carry.time_axis.rules import misplaced
from keras_stateful.carry.time_axis.table import OPERATIONS
from keras_stateful.carry.time_axis.tracing import traced
from keras_stateful.carry.time_axis.trial import vouched
from keras_stateful.foundation import keras_internals


class TimeAxis(NamedTuple):
    """What runs along the model's time axis.

    Attributes:
        recurrent: paths of the recurrent layers along time, in the order of their first call.
        held: what other calls hold, by path: the last steps of their input.
        calls: the number of calls for each path of both kinds.
        inputs: ids of the model's input tensors that have a time axis.
        outputs: for each model output, whether it has a time axis.
        initial_state_given: paths of recurrent layers that the graph gives an `initial_state`.
        along: what each tensor of the graph that has time holds along it, by the tensor's id.
        repeated: the same for tensors that hold one value, repeated along the window.
    """

    recurrent: list[str]
    held: dict[str, Held]
    calls: dict[str, int]
    inputs: set[int]
    outputs: list[bool]
    initial_state_given: set[str]
    along: dict[int, Along]
    repeated: dict[int, Repeated]


def find_time_axis(
    graph: Graph, chosen: list[str] | None = None, local: Collection[str] = ()
) -> TimeAxis:
    """Follows time through a model's graph.

    Args:
        graph: of the model.
        chosen: paths of the recurrent layers that are to carry; by default all along time. The
            others along time start anew in each window, as the user wishes.
        local: paths of layers of which the user says that they take each time step alone; it counts
            where nothing can be derived.

    Raises:
        ValueError: a layer that cannot be right when the stream is cut into windows, by path.
    """
    rule_of = rules(local)
    records: dict[tuple, Any] = {}  # a custom layer is called on symbolic tensors once
    searches = Searches(graph, rule_of, chosen, records)
    inputs = searches.sources()
    while True:
        holds: dict[int, Hold] = {i: Along(1) for i in inputs}
        time = Derivation(holds, rule_of, chosen, records=records)
        try:
            time.run(graph.calls)
            break
        except RefusedCall as error:
            more: set[int] = set()
            if isinstance(error.refused, LinedUp):
                more = searches.behind(error.refused) - inputs
            if not more:
                raise _refusal(error.call, error.refused) from None
            inputs |= more
    along = {tensor: hold for tensor, hold in holds.items() if isinstance(hold, Along)}
    for tensor in graph.outputs:
        _check_output(graph, time, tensor)
    return TimeAxis(
        time.recurrent,
        time.held,
        time.calls,
        inputs,
        [id(t) in along for t in graph.outputs],
        time.initial_state_given,
        along,
        {tensor: hold for tensor, hold in holds.items() if isinstance(hold, Repeated)},
    )


def rules(local: Collection[str]) -> Callable[[Call], Rule]:
    """Gives the rule of each call: of Keras's own from the tables, of any other by tracing it.

    A layer with an adapter goes by that, also one of Keras's own classes.
    """

    def rule_of(call: Call) -> Rule:
        if is_registered(type(call.operation)):
            return carried_by_adapter
        name = keras_internals.operation_name(call.operation)
        rule = rule_of_layer(call.operation) if name is None else OPERATIONS.get(name)
        if rule is not None:
            return rule
        return _vouched_or_traced if call.path in local else _traced

    return rule_of


def _traced(call: Call, time: Derivation) -> list[Hold]:
    if keras_internals.operation_name(call.operation) is not None:
        raise Refused("whether it mixes time steps cannot be derived", underivable=True)
    return traced(call, time)


def _vouched_or_traced(call: Call, time: Derivation) -> list[Hold]:
    try:
        return _traced(call, time)
    except Refused as refused:
        if not refused.underivable:
            raise
        return vouched(call, time)


def _check_output(graph: Graph, time: Derivation, tensor: Any) -> None:
    """Checks that an output of the model has the steps of the window, and knows no later ones."""
    hold = time.of(tensor)
    if not isinstance(hold, Along):
        return
    call = graph.producers.get(id(tensor))
    if call is None:
        return
    try:
        if hold.axis != 1:
            raise Refused(
                f"it puts time on axis {hold.axis} of an output of the model",
                "Put it back to axis 1 (`Permute`).",
            )
        if hold.lead:
            raise misplaced(time, tensor)
        time.check_not_ahead(hold)
    except Refused as refused:
        raise _refusal(call, refused) from None


def _refusal(call: Call, refused: Refused) -> Unconvertible:
    layer = call.operation
    details = [plain_class(type(layer)).__name__]
    kernel = getattr(layer, "kernel_size", None)
    if isinstance(kernel, tuple):  # as in Keras; a custom layer may mean anything by it
        details.append(f"kernel_size={kernel[0] if len(kernel) == 1 else kernel}")
    words = [f"`to_stateful` cannot carry `{call.path}` ({', '.join(details)}): {refused.why}."]
    if refused.remedy:
        words.append(refused.remedy)
    if refused.underivable:
        words.append(
            f"If it takes each time step alone, vouch for it: `local=[{call.path!r}]` in "
            "`to_stateful`, `to_inference` or `to_step_model`; what they return knows of it."
        )
    return Unconvertible(" ".join(words))
