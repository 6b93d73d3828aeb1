"""Seeing the state: while a network trains, along a text, and how a corpus is laid out.

    fit ──────▶ monitor ──▶ measures             norm, saturation and drift in the logs; warnings
    a text ───▶ recording ─▶ ranking             a state after each step; units that follow it
                    └──────▶ text_figure, page   the text in a unit's colours
    a corpus ─▶ layout_figure                    which document lies where
    scores ───▶ positions_figure                 whether a network holds on a long stream

It may import `conversion` and what that may. matplotlib is imported when a picture is drawn.
"""
