"""Runs a Keras model on its own output: the part of `generate` that knows about backends.

    prompt ─▶ whole windows ─▶ step ─▶ choose ─▶ step ─▶ choose ─▶ ...     states stay inside
             └── one call ──┘ └────────── one compiled call ──────────┘

On JAX and TensorFlow the whole loop is one compiled call, written once with `keras.ops`. Its
arguments are the weights' current values, buffers whose lengths are powers of two, and the number
of steps: neither training, nor another prompt, nor another length or temperature compiles it again.
On torch the step is recorded once as a list of ATen calls and the loop is Python's.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_stateful.carry.copying import parts_of
from keras_stateful.carry.graph import Graph
from keras_stateful.carry.vocabulary import input_vocabulary, reads_as_logits
from keras_stateful.conversion.step_model import StepModel, initial_states, to_step_model
from keras_stateful.foundation import keras_internals
from keras_stateful.generation.purity import pure_key
from keras_stateful.generation.sampling import next_ids

WINDOW = 64  # time steps of a prompt read at once inside a compiled call
_KEPT = 32  # compiled functions of one model
_SLOT = "_keras_stateful_rollout"


def rollout(model: keras.Model) -> "Rollout":
    """The `Rollout` of a model, made on first use and kept with the model as long as it lives."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model or a `Session`. Received: {model!r} of type "
            f"{type(model).__name__}."
        )
    signature = tuple(id(v) for v in model.weights) + tuple(id(layer) for layer in model.layers)
    kept = vars(model).get(_SLOT)
    if kept is None or kept[0] != signature:
        step = model if isinstance(model, StepModel) else to_step_model(model, share_weights=True)
        kept = (signature, Rollout(step))
        vars(model)[_SLOT] = kept  # not setattr: Keras would track it as a part of the model
    return kept[1]


class Rollout:
    """A step model with its compiled loops.

    Attributes:
        feature_shape: shape of one time step of the input, `()` for ids.
        dtype: dtype of the input.
        output_shape: shape of one time step of the output, unknown axes None.
        input_vocabulary: how many ids the model can read, or None.
        from_logits: whether the outputs are logits, told from the last activation, or None.
        last_layer: what the outputs come from, in words.
    """

    to_numpy = staticmethod(ops.convert_to_numpy)

    def __init__(self, step: StepModel):
        if len(step.data_inputs) != 1 or len(step.data_outputs) != 1:
            raise ValueError(
                "`generate` feeds one output back into one input. Received: a `model` with inputs "
                f"{[t.name for t in step.data_inputs]} and {len(step.data_outputs)} outputs. Build "
                "a `keras.Model` with the one input and the one output that are to be generated."
            )
        (entry,), (output,) = step.data_inputs, step.data_outputs
        self.step = step
        self.variables = list(step.variables)
        self.feature_shape, self.dtype = tuple(entry.shape[2:]), entry.dtype
        self.per_step = len(output.shape) > 1 and output.shape[1] is None
        self.output_shape = tuple(output.shape[2 if self.per_step else 1 :])
        graph = Graph(step)
        self.input_vocabulary = input_vocabulary(graph, entry)
        self.from_logits, self.last_layer = reads_as_logits(graph, graph.outputs[0])
        self._compiled: dict[Any, Callable] = {}
        self._drawn_in_vain = _drawn_in_vain(graph)
        self._backend = keras.backend.backend()

    def conversation(self, rows: int) -> "Conversation":
        """States at their start, advanced from Python: for torch, and where `next_input` is
        arbitrary Python.
        """
        return Conversation(self, rows)

    def compiles(self, request: Any) -> bool:
        """Whether the whole loop of a request can be compiled."""
        if self._backend == "torch" or None in self.feature_shape:
            return False
        if request.next_input is None:
            return True
        shape = (len(request.lengths), *self.output_shape)
        if pure_key(request.next_input) is None or None in shape:
            return False
        try:
            result = _trace(request.next_input, shape, self.step.data_outputs[0].dtype)
        except Exception:  # it is called in Python instead, where what is wrong with it shows
            return False
        return tuple(result.shape) == (shape[0], *self.feature_shape)

    def run(self, request: Any, steps: int | None) -> Iterator[np.ndarray]:
        """Runs a request in compiled calls.

        Args:
            request: a `generation.Request`.
            steps: time steps per compiled call; None for all in one.

        Yields:
            What was emitted, `(rows, time, ...)`, from position `min(lengths) - 1` or earlier; see
            `skipped`.
        """
        rows, total = len(request.lengths), request.total
        width = _bucket(total, 256 if request.next_input is None else 16)
        states = self.initial_states(rows)
        position = self.skipped(request)
        for start in range(0, position, WINDOW):
            states = self._call("read", self._read)(
                self._values(), states, request.inputs[:, start : start + WINDOW]
            )
        advance = self._call(
            (pure_key(request.next_input), request.from_logits),
            lambda *args: self._advance(request.next_input, request.from_logits, *args),
        )
        fixed = (
            _pad(request.inputs, width),
            np.asarray(request.lengths, "int32"),
            np.asarray(request.length, "int32"),
            None if request.uniforms is None else _pad(request.uniforms, width),
            *(
                None if v is None else np.asarray(v, d)
                for v, d in (
                    (request.temperature, "float32"),
                    (request.top_k, "int32"),
                    (request.top_p, "float32"),
                )
            ),
            None if request.stop is None else np.asarray(request.stop, "int32"),
        )
        if request.next_input is None:
            last = ops.zeros((rows,), "int32")
        else:
            last = ops.zeros((rows, *self.output_shape), self.step.data_outputs[0].dtype)
        finished = np.zeros((rows,), "bool")
        while position < total:
            end = total if steps is None else min(position + steps, total)
            done, states, last, finished, emitted = advance(
                self._values(), states, last, finished, np.int32(position), np.int32(end), *fixed
            )
            start, position = position, int(done)
            yield ops.convert_to_numpy(emitted)[:, : position - start]
            if position < end or (request.stop is not None and np.all(finished)):
                return

    def skipped(self, request: Any) -> int:
        """How many positions are read in whole windows before the loop starts; the loop takes all
        that differ.
        """
        return (min(request.lengths) - 1) // WINDOW * WINDOW

    def initial_states(self, rows: int) -> list:
        """The backend's tensors `(rows, ...)` to start from."""
        return [ops.convert_to_tensor(s) for s in initial_states(self.step, rows)]

    def call(self, values: list | None, x: Any, states: list) -> tuple[Any, list]:
        """One call of the model.

        Args:
            values: the variables' values, or None to read the variables.
            x: `(rows, time, ...)`.
            states: list of `(rows, ...)`.

        Returns:
            The output at the last time step `(rows, ...)`, and the new states.
        """
        given = [] if values is None else list(zip(self.variables, values, strict=True))
        with keras.StatelessScope(given) as scope:
            before = keras_internals.values_by_id(scope)
            output, *new = self.step([ops.cast(x, self.dtype), *states], training=False)
        after = keras_internals.values_by_id(scope)
        changed = {key for key, value in after.items() if before.get(key) is not value}
        if changed - self._drawn_in_vain:
            paths = [v.path for v in self.variables if id(v) in changed - self._drawn_in_vain]
            raise _noisy(str(paths or "keras.random"))
        new = [ops.reshape(ops.cast(n, s.dtype), s.shape) for n, s in zip(new, states, strict=True)]
        return (output[:, -1] if self.per_step else output), new

    def _values(self) -> list | None:
        return None if self._backend == "tensorflow" else [v.value for v in self.variables]

    def _call(self, key: Any, function: Callable) -> Callable:
        if key not in self._compiled:
            if len(self._compiled) >= _KEPT:
                self._compiled.clear()
            self._compiled[key] = _compile(function)
        return self._compiled[key]

    def _read(self, values: list | None, states: list, window: Any) -> list:
        return self.call(values, window, states)[1]

    def _advance(
        self,
        next_input: Callable | None,
        from_logits: bool,
        values: list | None,
        states: list,
        last: Any,
        finished: Any,
        start: Any,
        end: Any,
        inputs: Any,
        lengths: Any,
        length: Any,
        uniforms: Any,
        temperature: Any,
        top_k: Any,
        top_p: Any,
        stop: Any,
    ) -> tuple:
        """The loop itself: positions `start` to `end` of every row, or until every row is finished.

        A row reads its prompt up to `lengths[row]` and its own output from there on, so that
        prompts of different lengths run side by side, each as it would alone.
        """
        rows, width = inputs.shape[:2]
        axes = (1,) * len(self.feature_shape)

        def more(t: Any, states: list, last: Any, finished: Any, emitted: Any) -> Any:
            return ops.logical_and(t < end, ops.logical_not(ops.all(finished)))

        def body(t: Any, states: list, last: Any, finished: Any, emitted: Any) -> tuple:
            prompt = _column(inputs, t)
            own = ops.cast(
                ops.maximum(last, 0) if next_input is None else next_input(last), prompt.dtype
            )
            x = ops.where(ops.reshape(t < lengths, (rows, *axes)), prompt, own)
            output, states = self.call(values, ops.expand_dims(x, 1), states)
            if next_input is None:
                uniform = None if uniforms is None else _column(uniforms, t)
                scores = ops.cast(output, "float32")
                output = next_ids(
                    scores, uniform, temperature, top_k, top_p, from_logits=from_logits, xp=ops
                )
            if stop is not None:
                stopped = ops.any(ops.expand_dims(output, -1) == stop, axis=-1)
                ended = t >= lengths - 2 + length
                finished = ops.logical_or(
                    finished, ops.logical_or(ops.logical_and(t >= lengths - 1, stopped), ended)
                )
            at = [0, t - start] + [0] * (len(emitted.shape) - 2)
            emitted = ops.slice_update(emitted, at, ops.expand_dims(output, 1))
            return t + 1, states, output, finished, emitted

        emitted = ops.zeros((rows, width, *last.shape[1:]), last.dtype)
        return ops.while_loop(more, body, (start, states, last, finished, emitted))


class Conversation:
    """One conversation stepped from Python; `step` and `read` as in `Session`."""

    def __init__(self, rollout: Rollout, rows: int):
        self._rollout = rollout
        self._states = rollout.initial_states(rows)
        self._values = rollout._values()

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def read(self, x: np.ndarray) -> None:
        """Reads `(rows, time, ...)`: in one call on torch, else in whole windows and then single
        steps.
        """
        rollout = self._rollout
        if rollout._backend == "torch":
            with _no_grad():
                self._states = rollout.call(None, ops.convert_to_tensor(x), self._states)[1]
            return
        for start in range(0, x.shape[1] // WINDOW * WINDOW, WINDOW):
            read = rollout._call("read", rollout._read)
            self._states = read(rollout._values(), self._states, x[:, start : start + WINDOW])
        for t in range(x.shape[1] // WINDOW * WINDOW, x.shape[1]):
            self.step(x[:, t])

    def step(self, x: Any) -> Any:
        """Reads `(rows, ...)`, one time step; gives the output `(rows, ...)`, a tensor of the
        backend.
        """
        rollout = self._rollout
        x = ops.expand_dims(ops.cast(ops.convert_to_tensor(x), rollout.dtype), 1)
        if rollout._backend == "torch":
            call = rollout._compiled.get(x.shape)
            if call is None:
                call = rollout._compiled[x.shape] = _record(
                    rollout.call, self._values, x, self._states
                )
            with _no_grad():
                output, self._states = call(self._values, x, self._states)
        else:
            output, self._states = rollout._call("step", rollout.call)(
                rollout._values(), x, self._states
            )
        return output


def _compile(function: Callable) -> Callable:
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    compiled = tf.function(function, jit_compile=True, autograph=False)
    plain = tf.function(function, autograph=False)
    refused: list[Exception] = []

    def call(*args: Any) -> Any:
        if not refused:
            try:
                return compiled(*args)
            except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
                refused.append(error)  # an operation of the model that XLA has no kernel for
        return plain(*args)

    return call


def _record(function: Callable, values: Any, x: Any, states: list) -> Callable:
    """The ATen calls of one step, without the layers' Python around them; the function itself if
    that fails.
    """
    from torch.fx import CodeGen
    from torch.fx.experimental.proxy_tensor import make_fx

    count = len(values)

    def flat(*tensors: Any) -> list:
        output, new = function(list(tensors[:count]), tensors[count], list(tensors[count + 1 :]))
        return [output, *new]

    try:
        with _no_grad():
            recorded = make_fx(flat)(*values, x, *states)
    except (
        Exception
    ):  # it looks at values, or calls what cannot be recorded: run its Python every time
        return function
    recorded.graph.eliminate_dead_code()
    recorded.graph.set_codegen(CodeGen())  # takes and gives flat tensors
    recorded.recompile()
    # What left torch on its way (through NumPy, say) is a constant now: other inputs would tell.
    with _no_grad():
        others = [_ramp(s) for s in states]
        probe = _ramp(x) if x.is_floating_point() else x * 0
        wanted = flat(*values, probe, *others)
        if not _agree(flat(*values, probe, *others), wanted):  # torch draws where no variable tells
            raise _noisy("torch's generator")
        if not _agree(recorded(*values, probe, *others), wanted):
            return function

    def call(values: list, x: Any, states: list) -> tuple[Any, list]:
        output, *new = recorded(*values, x, *states)
        return output, new

    return call


def _drawn_in_vain(graph: Graph) -> set[int]:
    """Seed states of Keras's own cells, which draw their dropout masks at inference too and then
    leave them unused.
    """
    parts = [
        p
        for c in graph.calls
        if isinstance(c.operation, keras.layers.Layer)
        for p in parts_of(c.operation)
    ]
    seeds = [keras_internals.dropout_seed(p) for p in parts if keras_internals.is_keras_rnn(p)]
    return {id(seed) for seed in seeds if seed is not None}


def _noisy(where: str) -> ValueError:
    return ValueError(
        "`generate` runs models whose outputs depend on inputs, weights and recurrent states "
        f"alone. Received: a `model` that draws random numbers or counts at inference, in {where}: "
        "the same number could come at every step, and `seed` would not decide the text. Make that "
        "part depend on `training`, or draw in `next_input`."
    )


def _agree(found: list, wanted: list) -> bool:
    pairs = zip(found, wanted, strict=True)
    return all(
        a.shape == b.shape and a.isclose(b, atol=1e-5, equal_nan=True).all() for a, b in pairs
    )


def _ramp(tensor: Any) -> Any:
    import torch

    return (
        torch.linspace(-1, 1, tensor.numel(), device=tensor.device)
        .reshape(tensor.shape)
        .to(tensor.dtype)
    )


def _no_grad() -> Any:
    import torch

    return torch.no_grad()


def _trace(function: Callable, shape: tuple, dtype: str) -> Any:
    """The abstract result of a function, without running it."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.eval_shape(function, jax.ShapeDtypeStruct(shape, dtype))
    import tensorflow as tf

    traced = tf.function(function, autograph=False).get_concrete_function(
        tf.TensorSpec(shape, dtype)
    )
    return traced.structured_outputs


def _column(buffer: Any, t: Any) -> Any:
    """Time step `t` of `(rows, width, ...)`."""
    shape = (buffer.shape[0], 1, *buffer.shape[2:])
    return ops.reshape(
        ops.slice(buffer, [0, t] + [0] * (len(shape) - 2), shape), (shape[0], *shape[2:])
    )


def _bucket(length: int, least: int) -> int:
    return max(least, 1 << (length - 1).bit_length())


def _pad(array: np.ndarray, width: int) -> np.ndarray:
    padded = np.zeros((array.shape[0], width, *array.shape[2:]), array.dtype)
    padded[:, : array.shape[1]] = array
    return padded
