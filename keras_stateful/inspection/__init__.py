"""Seeing the state: while a network trains, along a text, and how a corpus is laid out.

It may import `conversion` and what that may.
"""
