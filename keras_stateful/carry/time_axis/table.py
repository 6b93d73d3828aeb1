"""Every rule there is: each module named here writes those of its family into the two tables."""

from importlib import import_module

from keras_stateful.carry.time_axis.rules import LAYERS, OPERATIONS

FAMILIES = (
    "attention_layers",
    "keras_layers",
    "shape_operations",
    "step_layers",
    "step_operations",
    "value_operations",
)
for family in FAMILIES:
    import_module(f"{__package__}.{family}")

__all__ = ["FAMILIES", "LAYERS", "OPERATIONS"]
