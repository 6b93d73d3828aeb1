"""How a network carries its state: the layers that do, the loops they run, the graph they stand in.

It may import `foundation` and `data`.
"""
