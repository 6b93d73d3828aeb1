"""A trained network in an application: states in, states out, one step at a time.

    export_step_model ─▶ directory: manifest.json  ─▶ manifest ──┐
                                    model.onnx     ─▶ artifact ─▶ runtimes ─▶ stepper
                                                                                 │
                                    your code ◀─▶ session, states of rows    ◀───┤
                                    your code ◀─▶ pool, states of names      ◀───┘
    save_states, load_states ─▶ saved_states: a file of states

NumPy only: an application installs this package, NumPy and the runtime of one format. It may
import `foundation.arguments`, `foundation.interrupts`, `foundation.rows`, `foundation.states` and
`foundation.types`, and no module that imports Keras.
"""
