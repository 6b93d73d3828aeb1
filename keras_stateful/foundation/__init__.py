"""What every room stands on. It imports nothing of the rooms above.

    NumPy only        arguments         numbers, words and shapes that a user gives
                      frames            names of columns, and their order
                      rows              which rows of a batch are meant
                      states            states by layer, and the weights that made them
                      progress          how far long work has come: Keras's bar, once one is drawn
                      types, version    names
                      locks, interrupts, on_import    small helps: each says what for
    Keras             protocols         what is asked of classes that are written further above
                      devices           which device holds which rows
                      device_checks     what several devices cannot do with states
    Keras's inside    keras_internals   everything of Keras that is not public, in one folder

`session` may import what is NumPy only.
"""
