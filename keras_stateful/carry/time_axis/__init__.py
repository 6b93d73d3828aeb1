"""Time, followed through a model's graph by derivation: no numbers are run to prove anything.

    inputs: where time begins ──▶ derivation: call by call ──▶ find: what runs along time
                                     │ asks
               table: keras_layers, step_layers,         a rule for each of Keras's own
               attention_layers, value_operations,
               shape_operations, step_operations
               tracing                                   what others do on symbolic tensors
               trial                                     what the user vouches for

`along` is what a tensor holds along time, and what padding, cutting and reading on make of it.
"""

from keras_stateful.carry.time_axis.along import Along, Held
from keras_stateful.carry.time_axis.find import TimeAxis, find_time_axis

__all__ = ["Along", "Held", "TimeAxis", "find_time_axis"]
