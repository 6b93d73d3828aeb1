"""What an application does with an exported network where NumPy and ONNX Runtime are all it has.

`scripts/package.py` runs this with the path of an artifact whose ids are below 7. It writes to the
working directory.
"""

import sys
from importlib.util import find_spec

import numpy as np

import keras_stateful as ks

assert not [name for name in ("keras", "jax", "tensorflow", "torch") if find_spec(name)]
assert "site-packages" in ks.__file__, f"not the installed package: {ks.__file__}"

session = ks.load_session(sys.argv[1])
ids = np.array([[1, 2, 3, 4]])
whole = session.read(ids)
session.reset()
np.testing.assert_allclose([session.step(i) for i in ids.T], whole.swapaxes(0, 1), atol=1e-5)

ks.save_states("states.npz", session.get_states())
expected = session.fork().step([5])
session.reset()
session.set_states(ks.load_states("states.npz"))
np.testing.assert_allclose(session.step([5]), expected, atol=1e-5)

pool = session.pool()
pool.step({"ann": 1, "bob": 2})
pool.save("pool.npz")
assert session.pool("pool.npz").names == ["ann", "bob"]

written = ks.generate(session, [1, 2], 5, temperature=0)
assert written.shape == (5,)
print(f"without Keras: read, stepped, saved, loaded, wrote {written.tolist()}")
