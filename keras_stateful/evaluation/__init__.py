"""Whole documents read by a trained network, each from the initial state to its end.

It may import `conversion` and what that may.
"""
