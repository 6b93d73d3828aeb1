"""From one model to another over the same weights: stateful, inference, stateless, step model.

It may import `training` and what that may.
"""
