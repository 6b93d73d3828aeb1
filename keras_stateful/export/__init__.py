"""From a trained network to a directory that `session`, or any other language, runs.

    export_step_model ─▶ arguments ─▶ single_step ─▶ processes ─▶ describe ─▶ check ─▶ directory
                                                        │            └─ quantized
                                                        │                    └─ reference
                                                        └─ writers, here or in a fresh process

It may import `conversion` and what that may, and `session`.
"""
