"""From a corpus to batches. NumPy only, but for `feed`, through which Keras reads them.

    corpus ─▶ documents (corpus, fields) ─▶ pieces in rows (dealing, plan) ─▶ spans (layout)
    source ─▶ documents as they come ─────────────────────────────────────▶ spans │ (stream_windows)
                                                                                  ▼
              parts: inputs, targets and weights, gathered where spans say ─▶ batches (windows)
                                                                                  │
    fit ◀─ feed ◀─ sequence: any batch by its index, an epoch is a pure function ◀┤
                   stream: the next batch of a source that is read once         ◀─┘

`kinds` decides what is an array and what is documents, `slices` finds those that were cut from one
array, `lazy` reads them when asked, `columns` puts those of frames in order,
`sequence_checks` looks at a sequence's arguments, `burn_in` reads from which step on documents
count, `strides` says where windows that overlap lie and in which of them a step is new, and
`restoring` leads from batches back to documents.

`model_facing` is what a model asks of either, such as columns, and how it has batches given.

`inputs` reads what is known ahead at the step that is predicted (`offsets` says how far), and what
is static at every step or once. `trained_on` is what a model remembers of all this.

`frames` makes several sequences of one data frame of readings.

It may import `foundation`; `feed` asks `training` for the checks of a fit that reads it.
"""
