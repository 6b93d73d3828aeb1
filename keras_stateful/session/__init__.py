"""A trained network in an application: states in, states out, one step at a time. NumPy only, no
Keras.

It may import `foundation.arguments`, and the runtime of the artifact.
"""
