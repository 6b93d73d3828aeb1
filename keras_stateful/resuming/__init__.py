"""A `fit` that was killed goes on as if it had not been.

It may import `training` and what that may.
"""
