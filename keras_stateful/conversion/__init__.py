"""From one model to another over the same weights: stateful, inference, stateless, step model.

    checks: can it be copied? ──▶ convert ──▶ model: `StatefulModel`, whose `fit` checks its data
    (masked_attention)        └─▶ step_model: states in, states out

Both build calls that hold a bounded past by `held`. `files` is about files that hold a model,
`composition` about whether one has changed since something was made of it.

It may import `training` and what that may.
"""
