"""How a network carries its state: the layers that do, the loops they run, the graph they stand in.

    model ──▶ graph: every call ──▶ time_axis: what runs along time, derived for each call
                                        │
    copying: one layer ──▶ twins: all of them ──▶ rewrite: the model anew ◀── `conversion`
                                        │
    layers: what carries ◀── classes ◀── adapters: any layer that is told how ◀── register
       │                                    │
       │                                    ├─ past: layers that hold their last inputs
       │                                    │    (each_step: where documents start inside a window)
       │                                    └─ attention: keys and values, or what they are made of
    recurrent ──▶ loops: which loop over time steps, resets inside a window, where cuDNN
       │                     is avoided (scan_kernels, torch_kernels; steps: flags of single steps;
       │                     fused_resets: resets inside a window by one call of a fused kernel)
    states: read, written, reset
    any_length, time_distributed: windows of any length; vocabulary: which ids a graph reads

It may import `foundation` and `data`.
"""
