"""What `keras.tree` and the backend look into: nested collections of arrays."""

from collections.abc import Iterable
from typing import Any

import keras
from keras.src.tree.tree_api import register_tree_node_class


def look_into(cls: Any) -> None:
    """Has `keras.tree`, and on JAX `jax.tree`, look into a class as they look into dicts.

    Private: `keras.src.tree.register_tree_node_class`. `keras.tree` takes a subclass of `dict` for
    one leaf.

    Args:
        cls: a class with `tree_flatten() -> (children, keys)` and a classmethod
            `tree_unflatten(keys, children)`.
    """
    backend = keras.backend.backend()
    if backend == "torch":  # whose trees Keras registers by methods of these names

        def unflatten(children: Iterable, keys: tuple) -> Any:
            return cls.tree_unflatten(keys, children)

        cls.torchtree_flatten, cls.torchtree_unflatten = cls.tree_flatten, staticmethod(unflatten)
    register_tree_node_class(cls)
    if backend == "jax":
        import jax

        jax.tree_util.register_pytree_node_class(cls)
