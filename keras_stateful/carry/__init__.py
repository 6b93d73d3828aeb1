"""How a network carries its state: the layers that do, the loops they run, the graph they stand in.

    model ──▶ graph: every call ──▶ time_axis: what runs along time (probing: what nobody knows)
                                        │
    copying: one layer ──▶ rewrite: the model anew ◀── a policy of `conversion`
                                        │
    layers: what carries ──▶ loops: which loop over time steps (scan_kernels, torch_kernels)
       │                        └─ steps: rows reset or masked at single steps
    states: read, written, reset        time_distributed, vocabulary: what else is read of a layer

It may import `foundation` and `data`.
"""
