"""One of two JAX processes: `jax_process.py ADDRESS PROCESS REFERENCE`; run by test_devices.py."""

import json
import sys
from pathlib import Path

import jax
import keras
import numpy as np
import pytest
from training import ROWS, sequence, trained

import keras_stateful as ks

address, process, reference = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
keras.utils.set_random_seed(1)
keras.distribution.initialize(address, 2, process)
keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
assert sequence(shard=(process, 2))[0][0][0].shape[0] == ROWS // 2  # it reads its rows only
model, history = trained(shard=(process, 2))
with open(reference) as file:
    expected = json.load(file)
for name, values in expected["history"].items():
    np.testing.assert_allclose(history[name], values, rtol=1e-5, err_msg=name)

state = model.get_layer("first").state_variables()[0].value
assert [s.index[0] for s in state.addressable_shards] == [slice(process * 4, process * 4 + 4)]

states = ks.get_states(model)  # of all rows, in both processes
for path, arrays in expected["states"].items():
    for mine, other in zip(states[path], arrays, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
ks.reset_states(model, rows=[1, 6])
kept = np.isin(np.arange(ROWS), [1, 6], invert=True)
after = ks.get_states(model)["first"][0]
np.testing.assert_array_equal(after[kept], states["first"][0][kept])
assert not after[~kept].any()
ks.set_states(model, states)
np.testing.assert_array_equal(ks.get_states(model)["first"][0], states["first"][0])
with ks.preserve_states(model):
    ks.reset_states(model)
np.testing.assert_array_equal(ks.get_states(model)["first"][0], states["first"][0])

data, folder = sequence(shard=(process, 2), seed=3), Path(f"{reference}.backup")
with pytest.raises(
    ValueError, match="Received: 2 processes of jax.distributed"
):  # in both: none waits
    model.fit(data, verbose=0, callbacks=[ks.ResumeTraining(folder, data)])
assert not folder.exists()
