"""Runs a Keras model on its own output: the `Engine` that knows about backends.

    prompt ─▶ whole windows ─▶ step ─▶ choose ─▶ step ─▶ choose ─▶ ...     states stay inside
             └── one call ──┘ └────────── one compiled call ──────────┘

On JAX and TensorFlow the loop is `compiled_loop.advance`. On torch the step is recorded once as a
list of ATen calls, which torch's interpreter runs on a CPU, and the loop is Python's.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence

import keras
import numpy as np
from keras import ops

from keras_stateful.carry.copying import parts_of
from keras_stateful.carry.graph import Graph
from keras_stateful.carry.states import fingerprint_of
from keras_stateful.carry.vocabulary import input_vocabulary, reads_as_logits
from keras_stateful.conversion.composition import composition
from keras_stateful.conversion.step_model import (
    StepModel,
    has_time,
    initial_states,
    to_step_model,
)
from keras_stateful.data.trained_on import TrainedOn
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.locks import Lock
from keras_stateful.foundation.states import check_arrays, check_owner
from keras_stateful.foundation.types import Tensor
from keras_stateful.generation.compiled_loop import ModelCall, Progress, advance, constants
from keras_stateful.generation.compiling import (
    Trace,
    compiled,
    no_grad,
    noisy,
    recorded,
    trace,
)
from keras_stateful.generation.engine import (
    ByLayer,
    Emissions,
    InputFacts,
    Request,
    several_outputs,
)
from keras_stateful.generation.request import check_fed_back
from keras_stateful.training.model_memory import trained_on

WINDOW = 64  # time steps of a prompt read at once inside a compiled call
_OF_NUMPY = ("int32", "float32")  # dtypes of a step that NumPy converts to
_KEPT = 32  # compiled functions of one model
_SLOT = "_keras_stateful_rollout"  # the attribute of the user's model that holds its `Rollout`
_making = Lock()  # of several threads that ask for the first time, one makes it


def rollout(model: keras.Model) -> "Rollout":
    """The `Rollout` of a model, made on first use and kept with the model as long as it lives."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model or a `Session`. Received: {model!r} of type "
            f"{type(model).__name__}."
        )
    with _making:
        kept, present = vars(model).get(_SLOT), composition(model)
        if kept is None or kept[0] != present:
            is_step = isinstance(model, StepModel)
            step = model if is_step else to_step_model(model, share_weights=True)
            kept = (present, Rollout(step, trained_on(model)))
            vars(model)[_SLOT] = kept  # not setattr: Keras would track it as a part of the model
        return kept[1]


class Rollout:
    """A step model with its compiled functions; the `Engine` of Keras models.

    Attributes:
        step: the model.
        variables: of the model, in the order in which `call` takes their values.
        per_step: True if the output has a time axis; else it is that of the last step.
    """

    def __init__(self, step: StepModel, known: TrainedOn):
        if len(step.data_outputs) != 1:
            raise several_outputs([t.name for t in step.data_outputs])
        (output,) = step.data_outputs
        self.step = step
        self.known = known
        self.steps_ahead, self.series = known.steps_ahead, known.series
        self.offsets = {key: tuple(offsets) for key, offsets in known.offsets.items()}
        self.variables: list[keras.Variable] = list(step.variables)
        self.per_step = len(output.shape) > 1 and output.shape[1] is None
        self.output_shape: tuple[int | None, ...] = tuple(output.shape[2 if self.per_step else 1 :])
        graph = Graph(step)
        self.inputs = tuple(_facts(graph, tensor) for tensor in step.data_inputs)
        self.from_logits, self.last_layer = reads_as_logits(graph, graph.outputs[0])
        # Loops by what `next_input` computes, "read", "step"; recorded steps by the input's shape.
        self._compiled: dict[Hashable, Callable] = {}
        # Layers are told by their attributes what a call is to do, so that threads take turns.
        self._lock = Lock()
        self._drawn_in_vain = _drawn_in_vain(graph)
        self._backend = keras.backend.backend()

    def to_numpy(self, array: Tensor) -> np.ndarray:
        return ops.convert_to_numpy(array)

    def conversation(self, rows: int, states: ByLayer | None) -> "Conversation":
        """Rows advanced from Python: for torch, and where `next_input` is arbitrary Python."""
        return Conversation(self, rows, states)

    def emissions(self, request: Request, steps: int | None) -> Emissions | None:
        """As in `Engine`: None on torch, and where `next_input` is to be called at every step."""
        fed = self.inputs[request.beside.fed]
        if self._backend == "torch" or any(None in entry.shape for entry in self.inputs):
            return None
        program: Hashable = ()  # what `next_input` computes
        if request.next_input is not None:
            shape = (len(request.lengths), *self.output_shape)
            if not request.compile_next_input or None in shape:
                return None
            traced = _trace_twice(request.next_input, shape, self._output_dtype)
            if traced.shape != (shape[0], *fed.shape):
                return None  # the loop in Python says what is wrong with it
            check_fed_back(self, self._probed(request.next_input, shape))
            program = traced.program
        loop = self._loop(request, program)
        return Emissions(_in_windows(request), self._blocks(loop, request, steps))

    def _probed(self, next_input: Callable, shape: tuple) -> tuple[np.ndarray, np.ndarray]:
        """An output of distinct numbers, and what `next_input` makes of it."""
        output = np.arange(np.prod(shape)).reshape(shape).astype("float32")
        following = next_input(ops.convert_to_tensor(output, self._output_dtype))
        return output, self.to_numpy(following)

    def _loop(self, request: Request, program: Hashable) -> Callable:
        """`advance` for this model, compiled once for all `next_input` that compute the same."""
        timed, logits, following = request.beside.timed, request.from_logits, request.next_input
        return self.compiled(
            (program, logits, request.beside.fed),
            lambda *args: advance(self.call, timed, following, logits, *args),
        )

    def _blocks(self, loop: Callable, request: Request, steps: int | None) -> Iterator[np.ndarray]:
        """Blocks of what positions from `_in_windows(request)` on emit, a compiled call each."""
        fixed, progress = constants(request), self._beginning(request)
        position = _in_windows(request)
        while position < request.positions:
            end = request.positions if steps is None else min(position + steps, request.positions)
            progress, emitted = loop(self.values(), fixed, progress, np.int32(end))
            start, position = position, int(progress.position)
            yield ops.convert_to_numpy(emitted)[:, : position - start]
            # A call that ends early had no row left to advance; the last row may also have
            # finished at `end` itself.
            if position < end or (request.stop is not None and np.all(progress.finished)):
                return

    def _beginning(self, request: Request) -> Progress:
        """Reads the whole windows that all prompts fill, and gives the progress behind them."""
        rows, position = len(request.lengths), _in_windows(request)
        states = self.first_states(rows, request.states)
        for start in range(0, position, WINDOW):
            end = start + WINDOW
            x = request.beside.between(request.prompts[:, start:end], start, end)
            states = self.read_window(x, states)
        if request.next_input is None:
            last = ops.zeros((rows,), "int32")
        else:
            last = ops.zeros((rows, *self.output_shape), self._output_dtype)
        return Progress(np.int32(position), states, last, np.zeros((rows,), "bool"))

    def read_window(self, x: list, states: list) -> list:
        """The states behind inputs `(rows, WINDOW, ...)`, in one compiled call."""
        return self.compiled("read", lambda *args: self.call(*args)[1])(self.values(), x, states)

    @property
    def _output_dtype(self) -> str:
        return self.step.data_outputs[0].dtype

    def check_states(self, states: ByLayer, rows: int) -> None:
        shapes: dict[str, list[tuple]] = {}
        for path, tensor in zip(self.step.state_paths, self.step.state_inputs, strict=True):
            shapes.setdefault(path, []).append((rows, *tensor.shape[1:]))
        check_arrays(
            states,
            shapes,
            "model",
            "Pass those that `predict_documents(..., return_states=True)` gave of this model.",
            ops.convert_to_numpy,
        )
        check_owner(states, fingerprint_of(self.step, []), "`model`")

    def first_states(self, rows: int, states: ByLayer | None) -> list:
        """The backend's tensors `(rows, ...)` to start from: the initial states, or these."""
        if states is None:
            return [ops.convert_to_tensor(s) for s in initial_states(self.step, rows)]
        left = {path: iter(arrays) for path, arrays in states.items()}
        pairs = zip(self.step.state_paths, self.step.state_inputs, strict=True)
        return [ops.cast(ops.convert_to_tensor(next(left[p])), t.dtype) for p, t in pairs]

    def call(self, values: list | None, x: list, states: list) -> tuple[Tensor, list]:
        """One call of the model.

        Args:
            values: the variables' values, or None to read the variables.
            x: for each input `(rows, time, ...)`, or `(rows, ...)` without a time axis.
            states: list of `(rows, ...)`.

        Returns:
            The output at the last time step `(rows, ...)`, and the new states.

        Raises:
            ValueError: a model that changes a variable, as those do that draw random numbers.
        """
        # Inside the scope a variable that is assigned to changes for this call alone: a model that
        # counts or draws is found out, and the user's model stays as it is.
        mapping = [] if values is None else list(zip(self.variables, values, strict=True))
        with self._lock, keras.StatelessScope(mapping) as scope:
            before = keras_internals.values_by_id(scope)
            cast = [ops.cast(v, e.dtype) for v, e in zip(x, self.inputs, strict=True)]
            output, *new = self.step([*cast, *states], training=False)
        after = keras_internals.values_by_id(scope)
        changed = {key for key, value in after.items() if before.get(key) is not value}
        if changed - self._drawn_in_vain:
            paths = [v.path for v in self.variables if id(v) in changed - self._drawn_in_vain]
            raise noisy(str(paths or "keras.random"))
        # A loop needs states of the same dtype and static shape at its begin and its end.
        new = [ops.reshape(ops.cast(n, s.dtype), s.shape) for n, s in zip(new, states, strict=True)]
        return (output[:, -1] if self.per_step else output), new

    def values(self) -> list | None:
        """The variables' present values; None on TensorFlow, whose functions read the variables."""
        return None if self._backend == "tensorflow" else [v.value for v in self.variables]

    def compiled(self, key: Hashable, function: Callable) -> Callable:
        """A compiled function, kept with the model."""
        return self.kept(key, lambda: compiled(function))

    def kept(self, key: Hashable, make: Callable[[], Callable]) -> Callable:
        """The function of a key, made when it is first asked for."""
        with self._lock:
            if key not in self._compiled:
                # A loop over ever new functions must not fill the memory.
                if len(self._compiled) >= _KEPT:
                    self._compiled.clear()
                self._compiled[key] = make()
            return self._compiled[key]


def _facts(graph: Graph, tensor: keras.KerasTensor) -> InputFacts:
    """An input of a step model."""
    time = has_time(tensor)
    shape = tuple(tensor.shape[2 if time else 1 :])
    return InputFacts(tensor.name, shape, tensor.dtype, input_vocabulary(graph, tensor), time)


def _in_windows(request: Request) -> int:
    """How many positions are read in whole windows before the loop starts.

    No row emits anything in the windows that every prompt fills and goes on behind: the last step
    of a prompt emits the first id, and is left to the loop.
    """
    return (min(request.lengths) - 1) // WINDOW * WINDOW


def _trace_twice(next_input: Callable, shape: tuple, dtype: str) -> Trace:
    """What a `next_input` computes that is to be compiled.

    That it is pure is its author's word. The two traces find most that are not: what one of them
    counts, draws or changes is another constant in the second.

    Raises:
        ValueError: a function that cannot be traced, or is traced differently each time.
    """
    remedy = (
        "Write it in `keras.ops` as a function of the output alone, or leave `compile_next_input` "
        "out: it is then called at every step."
    )
    try:
        first, second = (trace(next_input, shape, dtype) for _ in range(2))
    except Exception as error:
        raise ValueError(
            f"`next_input` cannot be compiled. Received: compile_next_input=True, and a function "
            f"that raises {type(error).__name__} where it is traced: {str(error)[:200]}. {remedy}"
        ) from error
    if first != second:
        raise ValueError(
            "`next_input` cannot be compiled: it would repeat what it did when it was traced. "
            "Received: compile_next_input=True, and a function that computes something else when "
            f"it is called again; it counts, draws, or changes what it reads. {remedy}"
        )
    return first


def _drawn_in_vain(graph: Graph) -> set[int]:
    """Ids of seed states that change at inference without a number being used.

    Keras's own cells draw their dropout masks at inference too, and leave them unused.
    """
    operations = [call.operation for call in graph.calls]
    layers = [layer for layer in operations if isinstance(layer, keras.layers.Layer)]
    parts = [part for layer in layers for part in parts_of(layer)]
    seeds = [keras_internals.dropout_seed(p) for p in parts if keras_internals.is_keras_rnn(p)]
    return {id(seed) for seed in seeds if seed is not None}


class Conversation:
    """Rows of one model, stepped from Python; `step` and `read` as in `Session`."""

    def __init__(self, rollout: Rollout, rows: int, states: ByLayer | None):
        self._rollout = rollout
        self._states = rollout.first_states(rows, states)
        self._values = rollout.values()
        self._on_torch = keras.backend.backend() == "torch"
        self._recorded: ModelCall | None = None  # on torch, one step of so many rows

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read(self, x: Sequence[np.ndarray]) -> None:
        """Reads `(rows, time, ...)`: in one call on torch, else in windows and single steps."""
        rollout = self._rollout
        if self._on_torch:
            with no_grad():
                tensors = [ops.convert_to_tensor(part) for part in x]
                self._states = rollout.call(None, tensors, self._states)[1]
            return
        pairs = list(zip(x, rollout.inputs, strict=True))
        steps = max(part.shape[1] for part, entry in pairs if entry.time)
        # Windows of one length, then single steps: every other length would be compiled anew.
        whole = steps // WINDOW * WINDOW
        for start in range(0, whole, WINDOW):
            window = slice(start, start + WINDOW)
            part = [values[:, window] if entry.time else values for values, entry in pairs]
            self._states = rollout.read_window(part, self._states)
        for t in range(whole, steps):
            self.step([values[:, t] if entry.time else values for values, entry in pairs])

    def step(self, x: Sequence[Tensor]) -> Tensor:
        """Reads `(rows, ...)`, one time step; gives the output, a tensor of the backend."""
        rollout = self._rollout
        x = [self._one_step(v, entry) for v, entry in zip(x, rollout.inputs, strict=True)]
        if not self._on_torch:
            step = rollout.compiled("step", rollout.call)
            output, self._states = step(rollout.values(), x, self._states)
            return output
        if self._recorded is None:
            self._recorded = rollout.kept(
                tuple(part.shape for part in x),
                lambda: recorded(rollout.call, self._values or [], x, self._states),
            )
        with no_grad():
            output, self._states = self._recorded(self._values, x, self._states)
        return output

    @staticmethod
    def _one_step(values: Tensor, entry: InputFacts) -> Tensor:
        """A time step in the model's dtype, with a time axis where the input has one."""
        if isinstance(values, np.ndarray) and entry.dtype in _OF_NUMPY:
            # In NumPy, where a call takes a tenth of the time of one of `keras.ops`.
            values = values.astype(entry.dtype, copy=False)
            values = values[:, None] if entry.time else values
            return ops.convert_to_tensor(values, entry.dtype)
        values = ops.cast(ops.convert_to_tensor(values), entry.dtype)
        return ops.expand_dims(values, 1) if entry.time else values
