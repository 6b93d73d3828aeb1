"""From a trained network to an artifact that `session` reads.

It may import `conversion` and what that may, and `session`.
"""
