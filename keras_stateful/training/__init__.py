"""What stands around `model.fit`: checks of its arguments, resets at boundaries, repairs of Keras.

    StatefulModel.fit ─────────┬─▶ checks ─┬─▶ check_arrays
    ResetStatesCallback ───────┘           │
    (resets) ─▶ repairs, masked_loss       └─▶ check_sequence ─▶ check_inputs, check_targets
                                           ┌─▶       │
    Keras opens a sequence ─▶ check_reader ┘         └─▶ model_facts: the graph, read once

It may import `carry` and what that may.
"""
