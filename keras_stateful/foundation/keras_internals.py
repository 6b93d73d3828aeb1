"""Everything of Keras that is not public API and that this package needs, in one place.

| what | why no public API will do | Keras read |
|---|---|---|
| `functional` reads `Sequential._functional` | a `Sequential` has no public way to its graph | 3.14 to 3.15 |
| `graph_calls` reads `Function._nodes_by_depth` | `clone_model` cannot enter sub-models, add inputs or outputs, or say which tensor runs along time | 3.14 to 3.15 |
| `sublayers` reads `Layer._layers` | `Model.layers` does not enter wrappers and custom layers | 3.14 to 3.15 |
| `replace_attribute` writes into `Layer._tracker` | a built layer takes no other variables, and keeps a layer that was put aside | 3.14 to 3.15 |
| `copy_lambda` reads `Lambda._output_shape` | a lambda is not copied from its config | 3.14 to 3.15 |
| `mask_of` is `keras.src.backend.common.masking.get_keras_mask` | Keras drops the implicit mask of a call with several tensors, and scales sample weights by it | 3.14 to 3.15 |
| `compile_arguments` reads `Trainer._compile_config` | `get_compile_config` cannot serialize every loss | 3.14 to 3.15 |
| `trainer_call` walks the frames up to `fit`, `evaluate`, `predict`, in a module `keras.src...`, and reads `epoch_iterator` there | callbacks are not told data, shuffle or weights, data not their model | 3.14 to 3.15 |
| `is_validation` reads `evaluate(_use_cached_eval_dataset=)` | nothing else tells the validation of a `fit` from an `evaluate` | 3.14 to 3.15 |
| `takes_plain_batches` knows that `fit` and `evaluate` on TensorFlow run their step on what any iterator gives | a `tf.data.Dataset` of Python's batches costs a step up to a millisecond | 3.14 to 3.15 |
| `skip_steps` wraps the epoch iterator's `_enumerate_iterator`, `begin_at` sets `Trainer._initial_epoch` | `fit` begins an epoch at its first step | 3.14 to 3.15 |
| `known_batches` reads the epoch iterator's `_num_batches`, `skip_steps` sets it | what was found out about the length of the data is told nobody | 3.14 to 3.15 |
| `CALLBACK_MEMORY` names attributes of Keras's callbacks | callbacks have no `get_state` | 3.14 to 3.15 |
| `is_keras_op`, `is_keras_rnn`, `module_name` know `keras.src.ops`, `.activations`, `.layers.rnn` and `keras._tf_keras` | functions and classes name the module that they are written in, not the public one | 3.14 to 3.15 |
| `build_for_training` is `Trainer._symbolic_build` | on TensorFlow metrics have no variables before the first step | 3.14 to 3.15 |
| `global_seed_state` is that of `keras.src.random.seed_generator.global_seed_generator` | it cannot be read otherwise without drawing from it | 3.14 to 3.15 |
| `rnn_loop` is `keras.src.backend.rnn` | `keras.ops.scan` wants outputs shaped like the states on TensorFlow | 3.14 to 3.15 |
| `batch_to_build_from`, in `StatefulModel._maybe_symbolic_build` | under a TensorFlow strategy `fit` reads a batch, and prefetches more, only to see its shapes | 3.14 to 3.15 |
| `lay_out` sets `Variable._layout` | `add_weight` takes no layout, and `Distribution` knows no rows | 3.14 to 3.15 |
| `ensure_batch` | nothing in `keras.ops` checks a shape at run time; TensorFlow broadcasts one row silently | 3.14 to 3.15 |

`tests/foundation/test_keras_internals.py` fails when one of them moves. The adapter that `fit`
reads a sequence through is in `data/feed.py`; the repairs of plain `stateful=True` layers are in
`training/repairs.py`.
"""

import copy
import inspect
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras.src import backend as _keras_backend
from keras.src.backend.common import global_state as _keras_state
from keras.src.backend.common import masking as _keras_masking
from keras.src.random import seed_generator as _keras_seeds

rnn_loop = _keras_backend.rnn

# What each of Keras's callbacks remembers from step to step. Those with nothing remember nothing,
# or make it anew when training begins. `CSVLogger` has its file beside.
CALLBACK_MEMORY: dict[type, tuple[str, ...]] = {
    keras.callbacks.CSVLogger: ("keys",),
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.History: ("history", "epoch"),
    keras.callbacks.LambdaCallback: (),
    keras.callbacks.LearningRateScheduler: (),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
    ),
    keras.callbacks.ProgbarLogger: ("target",),
    keras.callbacks.ReduceLROnPlateau: ("best", "wait", "cooldown_counter"),
    keras.callbacks.RemoteMonitor: (),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras.callbacks.TensorBoard: (
        "_global_train_batch",
        "_global_test_batch",
        "_previous_epoch_iterations",
    ),
    keras.callbacks.TerminateOnNaN: (),
}


class Call(NamedTuple):
    """One call of an operation in a Functional graph, its tensors as in the outermost graph."""

    path: str
    operation: Any
    args: tuple
    kwargs: dict
    outputs: list


def functional(model: keras.Model) -> keras.Model:
    """The Functional graph behind a built `Sequential`; any other model itself."""
    return model._functional if isinstance(model, keras.Sequential) and model.built else model


def is_graph(operation: Any) -> bool:
    """Whether an operation is a model whose graph can be read."""
    return isinstance(operation, keras.Model) and hasattr(functional(operation), "_nodes_by_depth")


def mask_of(tensor: Any) -> Any:
    """The mask that Keras attached to a tensor, symbolic or not, or None."""
    return _keras_masking.get_keras_mask(tensor)


def nodes(model: keras.Model) -> Iterator[Any]:
    """The nodes of a model's graph, inputs first, input nodes left out."""
    by_depth = functional(model)._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if node.operation and not node.is_input:
                yield node


def graph_calls(
    model: keras.Model,
    prefix: str = "",
    tensors: dict[int, Any] | None = None,
    told: set[int] | None = None,
) -> Iterator[Call]:
    """All calls of a model's graph in an order in which they can run, those inside sub-models
    included.

    Args:
        model: a model whose graph can be read.
        prefix: of the paths.
        tensors: what stands for the graph's tensors, by their id; this adds to it. By default the
            inputs themselves.
        told: ids of the output tensors of calls before: a sub-model that is called again gets new
            ones.
    """
    told = set() if told is None else told
    if tensors is None:
        tensors = {id(t): t for t in functional(model).inputs}
    for node in nodes(model):
        args, kwargs = node.arguments.fill_in(tensors)
        operation = node.operation
        path = f"{prefix}{operation.name}"
        if is_graph(operation):
            inner = functional(operation)
            given = keras.tree.flatten(args[0] if args else kwargs["inputs"])
            inside = {id(t): g for t, g in zip(inner.inputs, given, strict=True)}
            yield from graph_calls(operation, f"{path}/", inside, told)
            results = [inside[id(t)] for t in inner.outputs]
        else:
            results = [copy.copy(t) if id(t) in told else t for t in node.outputs]
            told.update(map(id, node.outputs))
            yield Call(path, operation, args, kwargs, results)
        for tensor, result in zip(node.outputs, results, strict=True):
            tensors[id(tensor)] = result


def graph(model: keras.Model) -> tuple[list[Call], list]:
    """All calls of a model's graph, and its outputs as the tensors that the calls speak of."""
    tensors = {id(t): t for t in functional(model).inputs}
    calls = list(graph_calls(model, tensors=tensors))
    return calls, [tensors[id(t)] for t in functional(model).outputs]


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer holds directly, whatever the attribute."""
    return list(layer._layers)


def attributes(layer: keras.layers.Layer) -> dict[str, Any]:
    """A layer's attributes by name; on torch those that are layers lie apart."""
    return {**vars(layer), **vars(layer).get("_modules", {})}


def replace_attribute(layer: keras.layers.Layer, name: str, value: Any) -> None:
    """Sets an attribute that holds a variable or a layer to another one, which is tracked in its
    place; built or not.
    """
    old, tracker = attributes(layer)[name], layer._tracker
    for store, (_, tracked) in tracker.config.items():
        if tracker.is_in_store(store, old):
            tracked[[id(t) for t in tracked].index(id(old))] = value
            tracker.stored_ids[store] = {id(t) for t in tracked}
    if isinstance(value, keras.Variable):  # of which torch keeps a list of its own
        layer._post_untrack_variable(old)
        layer._post_track_variable(value)
    setattr(layer, name, value)


def copy_lambda(layer: keras.layers.Lambda) -> keras.layers.Lambda:
    """A `Lambda` of the same function: Keras's config holds a lambda's code, without the names that
    it refers to.
    """
    return keras.layers.Lambda(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=dict(layer.arguments),
        name=layer.name,
        dtype=layer.dtype_policy,
    )


def ensure_batch(x: Any, batch_size: int) -> Any:
    """Fails in the compiled step where a batch has another number of rows (TensorFlow knows it only
    then).
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not isinstance(x, keras.KerasTensor):
            return tf.ensure_shape(x, (batch_size, *x.shape[1:]))
    return x


class TrainerCall(NamedTuple):
    """A call of Keras's own `fit`, `evaluate` or `predict` that is running."""

    method: str
    model: keras.Model
    arguments: dict[str, Any]
    epoch_iterator: Any  # what counts its steps; None where there is none yet


def trainer_call() -> TrainerCall | None:
    """The innermost call of `fit`, `evaluate` or `predict` that this is run in, or None.

    Keras tells callbacks nothing of the data, the shuffle or the weights that `fit` was given, and
    data nothing of the model that reads them; all can make a stateful training silently wrong. So
    the frames above are looked through.
    """
    frame: Any = sys._getframe()
    while frame is not None:
        method, model = frame.f_code.co_name, frame.f_locals.get("self")
        if (
            method in ("fit", "evaluate", "predict")
            and isinstance(model, keras.Model)
            and frame.f_globals.get("__name__", "").startswith("keras.src.")
        ):
            names = inspect.signature(getattr(keras.Model, method)).parameters
            found = frame.f_locals
            arguments = {k: found[k] for k in names if k in found and k != "self"}
            if found.get(
                "use_cached_eval_dataset"
            ):  # which Keras has taken out of `evaluate`'s keywords
                arguments["_use_cached_eval_dataset"] = True
            return TrainerCall(method, model, arguments, found.get("epoch_iterator"))
        frame = frame.f_back
    return None


def is_validation(arguments: dict[str, Any]) -> bool:
    """Whether arguments of `evaluate`, by name, are those that `fit` validates with."""
    return bool(arguments.get("_use_cached_eval_dataset"))


def takes_plain_batches(call: TrainerCall) -> bool:
    """Whether Keras's TensorFlow trainer may be given an iterable of batches in place of a
    `tf.data.Dataset`.

    `Trainer._make_function` runs its step on what any iterator gives. With several steps in an
    execution it would run them in Python, one by one, a strategy distributes datasets only, and
    functions of the user's own may ask for `get_next()`.
    """
    import tensorflow as tf

    makers = ("make_train_function", "make_test_function")
    return (
        call.method in ("fit", "evaluate")
        and call.model.steps_per_execution == 1
        and all(getattr(call.model, m).__func__ is getattr(keras.Model, m) for m in makers)
        and call.model.distribute_strategy is tf.distribute.get_strategy()
        and not tf.distribute.has_strategy()
    )


def batch_to_build_from(epoch_iterator: Any, replicas: int) -> Any:
    """What a replica's batch of a sequence looks like, without one being read; None for other data."""
    signature = getattr(epoch_iterator.data_adapter, "signature", None)
    if signature is None:
        return None

    def symbolic(spec: Any) -> keras.KerasTensor:
        rows, *rest = spec.shape
        return keras.KerasTensor((rows // replicas, *rest), dtype=spec.dtype.name)

    return keras.tree.map_structure(symbolic, signature())


def lay_out(variable: keras.Variable, sharding: Any) -> None:
    """Moves a JAX variable to where a `jax.sharding.Sharding` says; later values go there too."""
    variable._layout = sharding
    variable.assign(variable.value)


def trainer_arguments(model: keras.Model) -> dict[str, Any]:
    """The arguments of the `fit`, `evaluate` or `predict` of this model that is running, by name;
    empty outside of one.
    """
    call = trainer_call()
    return call.arguments if call is not None and call.model is model else {}


def fit_arguments(model: keras.Model) -> dict[str, Any]:
    """The same of a `fit` alone."""
    call = _fit_call(model)
    return {} if call is None else call.arguments


def _fit_call(model: keras.Model) -> TrainerCall | None:
    call = trainer_call()
    return call if call is not None and call.method == "fit" and call.model is model else None


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """What a model was compiled with (loss, metrics, ...), as the objects themselves.

    `get_compile_config` is public but serializes, which fails for a loss that is a local function.
    """
    return dict(model._compile_config.config)


def begin_at(model: keras.Model, epoch: int | None) -> None:
    """The epoch at which the running `fit` begins; None for what its argument says. To be called
    before the first.
    """
    model._initial_epoch = epoch


def epoch_iterator(model: keras.Model) -> Any:
    """What counts the steps of the `fit` of this model that is running, or None."""
    call = _fit_call(model)
    return None if call is None else call.epoch_iterator


def skip_steps(iterator: Any, steps: int, position: int, num_batches: int | None) -> None:
    """The epoch that an epoch iterator begins next is counted from `steps` on; no batch is read for
    those before.

    Args:
        iterator: from `epoch_iterator`.
        steps: of the epoch, done before.
        position: batches of the pass, read before; more than `steps` where a pass lasts for several
            epochs.
        num_batches: what the iterator had found out about the length of the data.
    """
    enumerate_all = iterator._enumerate_iterator
    if num_batches is not None:
        iterator._num_batches = num_batches

    def enumerate_rest() -> Iterator[tuple]:
        del iterator._enumerate_iterator  # later epochs are Keras's own
        if iterator.steps_per_epoch is not None:
            iterator._current_iterator = iter(iterator._get_iterator())
            iterator._steps_seen = position - steps
        for begin, end, data in enumerate_all():
            if begin >= steps:
                yield begin, end, data

    iterator._enumerate_iterator = enumerate_rest


def known_batches(iterator: Any) -> int | None:
    """What an epoch iterator has found out about the length of its data."""
    return iterator._num_batches


def build_for_training(model: keras.Model, batch: tuple) -> None:
    """Makes the variables of metrics and optimizer, as the first step would."""
    model._symbolic_build(data_batch=batch)


def global_seed_state(create: bool) -> Any:
    """The variable of the seed generator that Keras uses where none is given; None where there is
    none yet.

    Args:
        create: whether to make it then.
    """
    if create:
        return _keras_seeds.global_seed_generator().state
    generator = _keras_state.get_global_attribute(_keras_seeds.GLOBAL_SEED_GENERATOR)
    return None if generator is None else generator.state


def is_keras_op(function: Any) -> bool:
    """Whether a function is one of `keras.ops` or `keras.activations`."""
    return (function.__module__ or "").startswith(("keras.src.ops.", "keras.src.activations."))


def is_keras_rnn(part: Any) -> bool:
    """Whether a layer or cell is one of Keras's own recurrent ones."""
    return type(part).__module__.startswith("keras.src.layers.rnn.")


def module_name(module: Any) -> str:
    """The public name of one of Keras's modules; any other's own name."""
    return module.__name__.replace("keras._tf_keras.keras", "keras")
