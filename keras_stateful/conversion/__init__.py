"""From one model to another over the same weights: stateful, inference, stateless, step model.

    checks: can it be copied? ──▶ convert ──▶ model: `StatefulModel`, whose `fit` checks its data
                              └─▶ step_model: states in, states out

It may import `training` and what that may.
"""
