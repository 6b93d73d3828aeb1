"""Variables: where they lie, who writes them, and the seeds of random numbers."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import keras
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.random.seed_generator import global_seed_generator

from keras_stateful.foundation.types import Tensor


def lay_out(variable: keras.Variable, sharding: Any) -> None:
    """Moves a JAX variable to where a `jax.sharding.Sharding` says; later values go there too.

    Private: `Variable._layout`. `add_weight` takes no layout, and a `Distribution` knows no rows.
    """
    variable._layout = sharding
    variable.assign(variable.value)


def ensure_batch(x: Tensor, batch_size: int) -> Tensor:
    """The tensor; where TensorFlow knows its rows at run time only, checked then.

    Nothing in `keras.ops` checks a shape at run time, and TensorFlow broadcasts one row silently.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not isinstance(x, keras.KerasTensor):
            return tf.ensure_shape(x, (batch_size, *x.shape[1:]))
    return x


# Variables in Keras's steps


def sync_from_jax(model: keras.Model) -> None:
    """Brings the values that a running JAX `fit` holds back into the model's variables.

    Private: `JAXTrainer.jax_state_sync`. Keras calls it where a callback asks for `self.model`,
    which is the callback's own model only.
    """
    if keras.backend.backend() == "jax" and hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def carry_through_jax_steps(layer: keras.layers.Layer, variables: Iterable[keras.Variable]) -> None:
    """Has the compiled JAX step read and write variables that a layer does not track.

    Private: `Layer._seed_generators`. A built layer tracks no more variables, but a model asks for
    the state of each seed generator in that list whenever it gathers its variables.
    """
    layer._seed_generators.extend(SimpleNamespace(state=variable) for variable in variables)


def keep_out_of_autocast(variable: keras.Variable) -> None:
    """Has mixed precision read and write a variable itself, in its own precision.

    Private: `Variable._autocast`. It is an argument of the constructor, and the variable is there.
    """
    variable._autocast = False


def values_by_id(scope: keras.StatelessScope) -> dict[int, Tensor]:
    """The values that a stateless scope holds at present, by the id of their variable.

    Private: `StatelessScope.state_mapping`. The public `get_current_value` asks for the variable,
    and those that somebody else's code writes are not known beforehand.
    """
    return dict(scope.state_mapping)


# Seeds


def has_global_seed() -> bool:
    """True if anything has drawn from Keras's global seed generator, or asked for it.

    Private: `keras.src.backend.common.global_state.get_global_attribute`, and the name there, which
    is a constant since Keras 3.13.
    """
    return get_global_attribute("global_seed_generator") is not None


def global_seed_state() -> keras.Variable:
    """The state of the seed generator that Keras uses where a layer or function is given none.

    It is made if there is none yet.

    Private: `keras.src.random.seed_generator.global_seed_generator`. It cannot be read otherwise
    without drawing from it.
    """
    return global_seed_generator().state
