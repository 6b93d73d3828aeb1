"""Where time begins: the inputs that something reads along axis 1.

A recurrent layer that carries tells, or a layer that holds its past, if what it makes of an input
reaches an output of the model. What a whole is made of once and for all, as a context that is
convolved and then pooled into an initial state, has no time. From there time goes wherever an
operation lays another tensor upon it step by step: the inputs which that one was made of have time.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_stateful.carry.graph import Call, Graph
from keras_stateful.carry.time_axis.along import END, Along, Hold
from keras_stateful.carry.time_axis.derivation import Derivation, LinedUp, Rule


class Searches:
    """What each input of a graph would make of time if it alone had time.

    Args:
        graph: of the model.
        rule_of: gives the rule for a call.
        chosen: paths of the recurrent layers that are to carry; None: all.
        records: what calls did on symbolic tensors; added to.
    """

    def __init__(
        self,
        graph: Graph,
        rule_of: Callable[[Call], Rule],
        chosen: list[str] | None,
        records: dict[tuple, Any],
    ):
        self._graph, self._chosen = graph, chosen
        self._alone: dict[int, Derivation] = {}
        for tensor in graph.inputs:
            if len(tensor.shape) > 1 and tensor is not graph.resets:
                holds: dict[int, Hold] = {id(tensor): Along(1)}
                search = Derivation(holds, rule_of, chosen, searching=True, records=records)
                search.run(graph.calls)
                self._alone[id(tensor)] = search

    def sources(self) -> set[int]:
        """Ids of the inputs from which time is read."""
        return (
            self._where(self._is_read_by_recurrent)
            or self._where(self._is_held_for_an_output)
            or self._where(self._reaches_an_output)
        ) | self._where(self._is_held_for_an_output)

    def behind(self, lined_up: LinedUp) -> set[int]:
        """Ids of the inputs whose time is an axis of a tensor."""
        wanted = (id(lined_up.tensor), lined_up.axis)

        def has(search: Derivation) -> bool:
            hold = search.holds.get(wanted[0])
            return isinstance(hold, Along) and hold.axis == wanted[1]

        return self._where(has)

    def _where(self, condition: Callable[[Derivation], bool]) -> set[int]:
        return {tensor for tensor, search in self._alone.items() if condition(search)}

    def _is_read_by_recurrent(self, search: Derivation) -> bool:
        return any(search.carries(path) for path in search.recurrent)

    def _is_held_for_an_output(self, search: Derivation) -> bool:
        return bool(search.held) and any(
            hold is END or (isinstance(hold, Along) and hold.past != 0)
            for hold in self._at_outputs(search)
        )

    def _reaches_an_output(self, search: Derivation) -> bool:
        """Something that is refused stands on its way, which the user is to be told."""
        return any(isinstance(h, Along) and h.past is None for h in self._at_outputs(search))

    def _at_outputs(self, search: Derivation) -> list[Hold]:
        outputs: list[keras.KerasTensor] = self._graph.outputs
        return [search.of(tensor) for tensor in outputs]
