"""Whole documents, evaluated and predicted: each read from its first step to its last.

    documents ──▶ reading: windows, read by a twin of the model ──▶ documents: outputs of each
                                          │                              evaluate, predict
                                          ├──▶ scoring: loss and metrics of each ──┘
                                          └──▶ validation: a callback, after each epoch

`kept_twins` keeps that twin with the model for the next call, `groups` says what is scored
together, `dynamic` has the model learn from what it has read, `document_states` has documents go on
from given states and keeps those at their ends, `compiled` copies what a model was compiled with.
It may import `conversion` and what that may.
"""
