"""What stands around `model.fit`: checks of its arguments, resets at boundaries, repairs of plain
layers.

It may import `carry` and what that may.
"""
