"""Everything of Keras that is not public API and that this package needs, in one folder.

| file | what of Keras is read or written there |
|---|---|
| `addition` | the sum of two tensors on TensorFlow |
| `attention` | what attention layers do between their projections |
| `graph` | nodes of a Functional model, the graph of a `Sequential`, masks of tensors |
| `layers` | what a layer holds and tracks, what Keras's recurrent layers and cells do inside |
| `variables` | layouts, seed states, values under a `StatelessScope`, JAX's copies in `fit` |
| `losses` | the losses that `compile` was given, and the metric of their sum |
| `trainer` | which `fit`, `evaluate` or `predict` is running, and with what |
| `epochs` | what `fit` counts its steps with, and how it takes data |
| `callbacks` | what Keras's own callbacks remember |
| `trees` | which collections `keras.tree` looks into |
| `operations` | operations of `keras.ops`, the record of calls on symbolic tensors |
| `steps` | where the values of a model are while a step runs |
| `exporting` | sizes that torch's exporter leaves open |
| `files` | Keras's files, made in memory |
| `names` | what is Keras's own, by the module that it was written in |
| `releases` | which release of Keras a feature needs |
| `lazy` | the packages that Keras imports when it first asks for them |

Outside of this folder no module imports `keras.src` or reads what Keras keeps private. What Keras
calls has to stand in the class that it calls: `inner_loop` in `carry/recurrent.py` and
`carry/loops.py`, `_maybe_symbolic_build` in `conversion/model.py`, the methods of
`epochs.DataAdapter` in `data/feed.py`. `tests/foundation/test_private_keras.py` holds all of this.

Each function says which private part it uses and why no public API will do; all were read in Keras
3.10 to 3.15. `tests/foundation/test_keras_internals.py` fails when one of them moves.

The functions are used as `keras_internals.nodes(model)`, so that a reader of another room sees
where Keras's inside begins.
"""

from keras_stateful.foundation.keras_internals.addition import add_as_numpy_does
from keras_stateful.foundation.keras_internals.attention import (
    attend,
    forget_masks,
    project,
    projected_shapes,
    sliding_window,
)
from keras_stateful.foundation.keras_internals.callbacks import (
    CALLBACK_MEMORY,
    get_memory,
    set_memory,
)
from keras_stateful.foundation.keras_internals.epochs import (
    DataAdapter,
    batches_of_data,
    begin_at,
    data_adapter,
    epoch_iterator,
    known_batches,
    skip_steps,
    super_batches,
    takes_plain_batches,
)
from keras_stateful.foundation.keras_internals.exporting import open_sizes
from keras_stateful.foundation.keras_internals.files import weights_file
from keras_stateful.foundation.keras_internals.graph import (
    arguments_of,
    fill_in,
    functional,
    is_graph,
    is_submodel,
    mask_of,
    named_pad,
    nodes,
)
from keras_stateful.foundation.keras_internals.layers import (
    attributes,
    class_to_rebuild,
    copy_cudnn_choice,
    copy_lambda,
    dropout_mask,
    dropout_seed,
    fused_call,
    has_fused_call,
    is_rebuildable,
    is_store,
    replace_attribute,
    replace_tracked,
    rnn_loop,
    sublayers,
    unlock,
    without_dropout,
)
from keras_stateful.foundation.keras_internals.lazy import without_tensorflow
from keras_stateful.foundation.keras_internals.losses import (
    loss_tracker,
    set_loss_tracker,
    wrap_losses,
)
from keras_stateful.foundation.keras_internals.names import (
    is_keras_rnn,
    is_of_keras,
    is_written_in_keras,
)
from keras_stateful.foundation.keras_internals.operations import (
    operation_name,
    record,
    settings_of,
)
from keras_stateful.foundation.keras_internals.releases import (
    has_keras,
    keras_or_later,
    needs_keras,
)
from keras_stateful.foundation.keras_internals.steps import keep_values, values_are_lost
from keras_stateful.foundation.keras_internals.trainer import (
    TrainerCall,
    build_for_training,
    compilation,
    compile_arguments,
    fit_arguments,
    is_validation,
    is_writing_legacy_file,
    jit_by_default,
    strategy,
    trainer_arguments,
    trainer_call,
)
from keras_stateful.foundation.keras_internals.trees import look_into
from keras_stateful.foundation.keras_internals.variables import (
    carry_through_jax_steps,
    ensure_batch,
    global_seed_state,
    has_global_seed,
    keep_out_of_autocast,
    lay_out,
    sync_from_jax,
    values_by_id,
)

__all__ = [
    "CALLBACK_MEMORY",
    "DataAdapter",
    "TrainerCall",
    "add_as_numpy_does",
    "arguments_of",
    "attend",
    "attributes",
    "batches_of_data",
    "begin_at",
    "build_for_training",
    "carry_through_jax_steps",
    "class_to_rebuild",
    "compilation",
    "compile_arguments",
    "copy_cudnn_choice",
    "copy_lambda",
    "data_adapter",
    "dropout_mask",
    "dropout_seed",
    "ensure_batch",
    "epoch_iterator",
    "fill_in",
    "fit_arguments",
    "forget_masks",
    "functional",
    "fused_call",
    "get_memory",
    "global_seed_state",
    "has_fused_call",
    "has_global_seed",
    "has_keras",
    "is_graph",
    "is_keras_rnn",
    "is_of_keras",
    "is_rebuildable",
    "is_store",
    "is_submodel",
    "is_validation",
    "is_writing_legacy_file",
    "is_written_in_keras",
    "jit_by_default",
    "keep_out_of_autocast",
    "keep_values",
    "keras_or_later",
    "known_batches",
    "lay_out",
    "look_into",
    "loss_tracker",
    "mask_of",
    "named_pad",
    "needs_keras",
    "nodes",
    "open_sizes",
    "operation_name",
    "project",
    "projected_shapes",
    "record",
    "replace_attribute",
    "replace_tracked",
    "rnn_loop",
    "set_loss_tracker",
    "set_memory",
    "settings_of",
    "skip_steps",
    "sliding_window",
    "strategy",
    "sublayers",
    "super_batches",
    "sync_from_jax",
    "takes_plain_batches",
    "trainer_arguments",
    "trainer_call",
    "unlock",
    "values_are_lost",
    "values_by_id",
    "weights_file",
    "without_dropout",
    "without_tensorflow",
    "wrap_losses",
]
