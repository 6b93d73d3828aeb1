"""From a corpus to batches. NumPy only, but for `feed`, through which Keras reads them.

    corpus ─▶ documents (corpus, fields) ─▶ pieces in rows (dealing, plan) ─▶ spans of a window (layout)
                                                                                     │
    fit ◀─ feed ◀─ sequence: any batch by its index, an epoch is a pure function ◀─ windows
                   stream: the next batch of a source that is read once         ◀─ stream_windows ◀─ source

It may import `foundation`.
"""
