"""A network writes: prompt in, one step after the other, samples out.

It may import `conversion` and what that may. `generate`, `request` and `sampling` import no Keras,
so that a `Session` writes without it.
"""
