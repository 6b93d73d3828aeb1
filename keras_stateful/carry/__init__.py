"""How a network carries its state: the layers that do, the loops they run, the graph they stand in.

    model ──▶ graph: every call ──▶ time_axis: what runs along time, derived for each call
                                        │
    copying: one layer ──▶ rewrite: the model anew ◀── a policy of `conversion`
                                        │
    layers: what carries ◀── adapters: any layer that is told how ◀── register
       │
    recurrent ──▶ loops: which loop over time steps, resets inside a window, where cuDNN
       │                     is avoided (scan_kernels, torch_kernels; steps: flags of single steps)
    states: read, written, reset        time_distributed, vocabulary: what else is read of a layer

It may import `foundation` and `data`.
"""
