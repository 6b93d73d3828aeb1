"""A `fit` that was killed goes on as if it had not been.

    callback            what fit tells it        what is saved, and where
    ResumeTraining ──▶  callback_states          what the other callbacks remember
                        training_state           variables and random generators
                        fingerprint, probe       which training it is
                              │
                              ▼
                        checkpoint               a directory of checkpoints, each whole or damaged
                        packing                  run.json and state.npz of one

It may import `training` and what that may, so it knows no callback of the rooms beyond: those say
themselves what they remember, by `get_state` and `set_state`.
"""
