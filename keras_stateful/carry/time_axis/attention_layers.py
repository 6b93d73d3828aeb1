"""Layers that attend, and what a bounded memory of theirs is."""

from keras import layers, tree

from keras_stateful.carry.graph import Call
from keras_stateful.carry.time_axis.along import Along, Hold, Refused, Repeated
from keras_stateful.carry.time_axis.derivation import Derivation, LinedUp, merges
from keras_stateful.carry.time_axis.rules import (
    misplaced,
    of_layers,
    stay,
)
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Tensor

# What attends


@of_layers(layers.MultiHeadAttention, layers.GroupQueryAttention)
def _multi_head(call: Call, time: Derivation) -> list[Hold]:
    query = call.argument(0, "query")
    value = call.argument(1, "value")
    key = call.argument(2, "key")
    hold = _attention(call, time, query, [value, value if key is None else key])
    return [hold, *[hold.at(2)] * (len(call.outputs) - 1)]  # behind it come the scores


def _attention(
    call: Call, time: Derivation, query: Tensor, values: list[Tensor]
) -> Along | Repeated:
    """What attention puts out for each query."""
    causal = bool(call.argument(9, "use_causal_mask"))
    window = keras_internals.sliding_window(call.operation)
    if not any(isinstance(time.of(t), Along) for t in values):  # the same memory for each query
        if causal or window:
            raise _NotOfEachStep(values[0])
        return time.along(query)
    if not isinstance(time.of(query), Along):
        raise _NotOfEachStep(query) if causal or window else merges()
    hold = time.join([(t, stay) for t in (query, *values)])
    if not (causal and window):
        raise Refused(
            "it attends within the window alone" if causal else "it attends to later steps as well",
            _bounding(
                "Bound its memory: `sliding_window=` of the layer and `use_causal_mask=True` of "
                "its call; it then reads that many steps back, and carries them."
            ),
        )
    _check_attends_step_by_step(call, hold)
    if window == 1 or isinstance(hold, Repeated):
        return hold
    if hold.lead and not time.searching:
        raise misplaced(time, query)
    return time.hold(call, values[0], window - 1).padded(window - 1, 0).read_back(window - 1)


class _NotOfEachStep(LinedUp):
    """One of query and value has no time, and the mask lays them upon each other step by step."""

    def __init__(self, tensor: Tensor):
        super().__init__(tensor, 1)
        self.why = "it masks what a query may read by the query's place in the window"
        self.remedy = (
            "Leave `use_causal_mask` and `sliding_window` out: what it attends to has no time."
        )


def _bounding(remedy: str) -> str:
    """A remedy that takes `sliding_window`, which a layer must know."""
    if keras_internals.has_keras("3.15"):
        return remedy
    return f"{remedy} `sliding_window` needs {keras_internals.keras_or_later('3.15')}"


def _check_attends_step_by_step(call: Call, hold: Along | Repeated) -> None:
    """Checks that attention with a bounded memory can hold what it attends to.

    Raises:
        Refused: an argument that says something for each pair of steps of a window; a penalty on
            what it holds; other axes.
    """
    pairs = "one value for each pair of steps of a window, and a step reads others as well"
    query, config = call.argument(0, "query"), call.operation.get_config()
    axes = config.get("attention_axes")
    if call.argument(6, "attention_mask") is not None:
        raise Refused(
            f"its `attention_mask` has {pairs}",
            "Leave it out: the masks of its inputs (`Masking`, `mask_zero=True`) say which steps "
            "are not to be read.",
        )
    if call.argument(7, "return_attention_scores"):
        raise Refused(
            f"its scores have {pairs}", "Leave `return_attention_scores` out of this model."
        )
    # Keys and values of the steps that are held are computed in each window that reads them.
    if config.get("activity_regularizer") is not None:
        raise Refused(
            "its `activity_regularizer` counts keys and values in each window that reads them",
            "Leave it out, and put `ActivityRegularization` behind it: that counts outputs once.",
        )
    if hold.axis != 1 or len(query.shape) != 3 or tuple(axes or (1,)) not in ((1,), (-2,)):
        raise Refused(
            f"it reads {tuple(query.shape)}, and attends along more than time, or along another "
            "axis than 1",
            "Give it `(batch, time, features)`, without `attention_axes`.",
        )


@of_layers(layers.Attention, layers.AdditiveAttention)
def _attention_layer(call: Call, time: Derivation) -> list[Hold]:
    query, *values = tree.flatten(call.args[0] if call.args else call.kwargs["inputs"])
    if not any(isinstance(time.of(t), Along) for t in values):
        hold = time.along(query)
        if call.kwargs.get("use_causal_mask"):
            raise Refused("it masks what a query may read by the query's place in the window")
        return [hold, *[hold] * (len(call.outputs) - 1)]
    if not isinstance(time.of(query), Along):
        raise merges()
    raise Refused(
        "it attends within the window alone",
        _bounding(
            "Use `MultiHeadAttention(..., sliding_window=n)` with `use_causal_mask=True`, which "
            "reads n steps back and carries them."
        ),
    )
