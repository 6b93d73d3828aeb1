"""What every room stands on: arguments read, Keras's private parts named, devices counted.

It may import NumPy and Keras, and nothing of this package. `arguments` is NumPy only.
"""
