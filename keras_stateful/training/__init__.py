"""What stands around `model.fit`: checks of its arguments, resets at boundaries, repairs of Keras.

    who checks                     with what
    StatefulModel.fit, .evaluate   check_fit ──┬──▶ check_arrays
    ResetStatesCallback            check_fit ──┤
    a sequence that Keras opens    check_reader ──▶ check_sequence ──▶ check_inputs, check_targets
    predict, *_on_batch, calls     check_values

Checks ask `model_facts`, where the graph of a model is read once. `ResetStatesCallback` also mends
plain `stateful=True` layers: `repairs`. `step_loss` and `step_scores` weigh losses and metrics by
time steps; `check_losses` sees to it that they can. `recovery` puts weights and states back where
a call fails. `model_memory` has a model remember what it was trained on, and `as_trained` has it
read and score data so again. `static_inputs` asks whether a model takes the vector of a document
once. `callbacks` is what all callbacks share.

It may import `carry` and what that may.
"""
