"""A model's graph is read rightly, and once for each conversion and each `fit`."""

import keras
import numpy as np
import pytest

import keras_stateful as ks
from keras_stateful.carry.graph import Graph
from keras_stateful.foundation import keras_internals


def with_submodel():
    inner = keras.Sequential(
        [keras.Input((None, 3)), keras.layers.LSTM(2, return_sequences=True, name="a")],
        name="inner",
    )
    x = keras.Input((None, 3))
    return keras.Model(x, keras.layers.Dense(1, name="b")(inner(x)), name="outer")


def test_calls_enter_submodels_and_join_their_tensors():
    model = with_submodel()
    graph = Graph(model)
    first, second = graph.calls
    assert [first.path, second.path] == ["inner/a", "b"]
    assert first.args[0] is model.inputs[0]
    assert second.args[0] is first.outputs[0]
    assert second.outputs[0] is model.outputs[0]
    assert graph.producers[id(graph.outputs[0])] is second


def test_a_submodel_that_is_called_again_gets_tensors_of_its_own():
    mlp = keras.Sequential(
        [keras.Input((None, 3)), keras.layers.Dense(4), keras.layers.Dense(2)], name="mlp"
    )
    a, b = keras.Input((None, 3)), keras.Input((None, 3))
    graph = Graph(keras.Model([a, b], [mlp(a), mlp(b)]))
    assert len({id(t) for call in graph.calls for t in call.outputs}) == 4
    for entry, output in zip((a, b), graph.outputs, strict=True):
        last = graph.producers[id(output)]
        first = graph.producers[id(last.args[0])]
        assert first.args[0] is entry


def test_what_an_earlier_conversion_left_is_told_from_the_users():
    model = with_submodel()
    graph = Graph(model)
    assert (graph.carrying, graph.converted, graph.resets) == ([], False, None)
    converted = ks.to_stateful(model, 2, resets="window")
    graph = Graph(converted)
    assert (graph.carrying, graph.converted) == (["inner/a"], True)
    assert graph.resets is converted.inputs[-1]


@pytest.fixture
def walks(monkeypatch):
    """Names of the models whose nodes were gone through, in order."""
    names = []
    nodes = keras_internals.nodes

    def counted(model):
        names.append(model.name)
        return nodes(model)

    monkeypatch.setattr(keras_internals, "nodes", counted)
    return names


def test_a_conversion_reads_the_graph_once_and_replays_it_once(walks):
    converted = ks.to_stateful(with_submodel(), 2, resets="window")
    conversions = [
        lambda: ks.to_stateful(converted, 4),
        lambda: ks.to_inference(converted),
        lambda: ks.to_inference(converted, share_weights=True),
        lambda: ks.to_stateless(converted),
        lambda: ks.to_step_model(converted),
    ]
    for convert in conversions:
        walks.clear()
        convert()
        assert walks == ["outer", "inner"] * 2


def test_fit_reads_the_graph_once_for_all_its_epochs(walks):
    windows = {"batch_size": 2, "sequence_length": 5, "targets": np.zeros((41, 1), "float32")}
    data = ks.StatefulSequence(np.zeros((41, 3), "float32"), resets=True, **windows)
    model = ks.to_stateful(with_submodel(), data)
    model.compile("sgd", "mse")
    walks.clear()
    model.fit(data, validation_data=data, epochs=3, verbose=0)
    assert walks == ["outer", "inner"]
