"""A network writes: a prompt in, one step after the other, samples out.

    generate, stream ─▶ options, prompt ─▶ request ─▶ engine ─┬─ rollout ─ compiled_loop, compiling
                                                              └─ session_engine ─ python_loop
                                            next id: sampling ◀┘

`beside` lays out what a model reads beside what it writes: what is known ahead, and constants.
`prompt_columns` puts frames in the order of columns that the model was trained on, `values` checks
the numbers of both.

On torch, and where `next_input` is not to be compiled, `rollout` runs in `python_loop` too.

It may import `conversion` and what that may. All but `rollout`, `compiled_loop`, `compiling` and
`sample_text` is NumPy only, so that a `Session` writes where Keras is not installed.
"""
