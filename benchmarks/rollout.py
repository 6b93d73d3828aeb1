"""Episodes that end inside a rollout: a training step on all of it, against the loop over time of
SB3-contrib's RecurrentPPO.

Both sides run in one process, in turn, over the same rollout, from the same weights, and are
compared first: outputs and loss must be equal. The loop is that of `_process_sequence` in
`sb3_contrib/common/recurrent/policies.py` (sb3-contrib 2.9.2, where it is installed; else the lines
below, which are the same), in the layout of its buffer: the rollout is cut where episodes start,
the pieces padded to one length. "One call" is the same layout with the states of new episodes
cleared first, as docs/coming-from.md has it. Ours reads the rollout as it is, `resets="step"`.
"""

from itertools import pairwise

import keras
import numpy as np
from harness import BACKENDS, interleaved, row

__all__ = ["BACKENDS", "ENVIRONMENTS", "measure"]

# A loop of small steps gains nothing by a second thread, and on a busy machine it waits for it.
ENVIRONMENTS = {
    ", one thread": {
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    }
}

ROWS, STEPS, FEATURES, UNITS, ROUNDS = 16, 128, 32, 128, 7
EPISODES = (20, 100)  # time steps of the shortest and the longest


def rollout() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations, targets `(environments, steps, 1)`, and which steps start an episode."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(ROWS, STEPS, FEATURES)).astype("float32")
    starts = np.zeros((ROWS, STEPS), bool)
    for of_one in starts:  # what is going on at the first step began in the rollout before
        edges = np.cumsum(rng.integers(*EPISODES, STEPS // EPISODES[0]))
        of_one[edges[edges < STEPS]] = True
    return seen, seen[..., :1].cumsum(1) / 10, starts


def process_sequence(features, states, episode_starts, lstm):
    """As `_process_sequence` of sb3-contrib: `(pieces * time, features)` to outputs and states."""
    import torch

    pieces = states[0].shape[1]
    features = features.reshape((pieces, -1, lstm.input_size)).swapaxes(0, 1)
    episode_starts = episode_starts.reshape((pieces, -1)).swapaxes(0, 1)
    if torch.all(episode_starts == 0.0):
        outputs, states = lstm(features, states)
        return torch.flatten(outputs.transpose(0, 1), start_dim=0, end_dim=1), states
    outputs = []
    for x, start in zip(features, episode_starts, strict=True):
        keep = (1.0 - start).view(1, pieces, 1)
        output, states = lstm(x.unsqueeze(dim=0), (keep * states[0], keep * states[1]))
        outputs += [output]
    outputs = torch.flatten(torch.cat(outputs).transpose(0, 1), start_dim=0, end_dim=1)
    return outputs, states


def in_one_call(features, states, episode_starts, lstm):
    """The same, where a piece can only start with an episode."""
    import torch

    pieces = states[0].shape[1]
    keep = (1.0 - episode_starts.reshape((pieces, -1))[:, 0]).view(1, pieces, 1)
    features = features.reshape((pieces, -1, lstm.input_size)).swapaxes(0, 1)
    outputs, states = lstm(features, (keep * states[0], keep * states[1]))
    return torch.flatten(outputs.transpose(0, 1), start_dim=0, end_dim=1), states


def pieces_of(starts: np.ndarray) -> list[tuple[int, slice]]:
    """Environment and steps of each piece: the rollout, cut where episodes start."""
    pieces = []
    for environment, of_one in enumerate(starts):
        edges = [0, *(t for t in np.flatnonzero(of_one) if t), STEPS]
        pieces += [(environment, slice(*ends)) for ends in pairwise(edges)]
    return pieces


class InTorch:
    """The loop's side: an LSTM and a head, Adam, the mean over the steps that are no padding."""

    def __init__(self, function, weights: list[np.ndarray]) -> None:
        import torch

        self.function = function
        self.lstm, self.head = torch.nn.LSTM(FEATURES, UNITS), torch.nn.Linear(UNITS, 1)
        kernel, recurrent, bias, *head = (torch.tensor(w) for w in weights)
        with torch.no_grad():
            self.lstm.weight_ih_l0.copy_(kernel.T)
            self.lstm.weight_hh_l0.copy_(recurrent.T)
            self.lstm.bias_ih_l0.copy_(bias)
            self.lstm.bias_hh_l0.zero_()
            self.head.weight.copy_(head[0].T)
            self.head.bias.copy_(head[1])
        self.optimizer = torch.optim.Adam([*self.lstm.parameters(), *self.head.parameters()])

        seen, targets, starts = rollout()
        self.pieces = pieces_of(starts)
        padded = [self._padded(part) for part in (seen, targets, np.ones_like(targets))]
        self.features, self.targets, self.counts = (p.flatten(0, 1) for p in padded)
        self.starts = self._padded(starts[..., None].astype("float32")).flatten()
        self.states = tuple(torch.zeros(1, len(self.pieces), UNITS) for _ in range(2))

    def _padded(self, part: np.ndarray):
        import torch

        parts = [torch.tensor(part[environment, steps]) for environment, steps in self.pieces]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

    def outputs(self):
        hidden, _ = self.function(self.features, self.states, self.starts, self.lstm)
        return self.head(hidden)

    def loss(self):
        return ((self.outputs() - self.targets)[self.counts > 0] ** 2).mean()

    def step(self) -> None:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        float(loss.detach())


def measure() -> tuple:
    from keras_stateful import reset_states, to_stateful

    loop_of = process_sequence
    try:
        from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    except ImportError:
        pass
    else:
        loop_of = RecurrentActorCriticPolicy._process_sequence

    keras.utils.set_random_seed(0)
    seen, targets, starts = rollout()
    x = keras.Input((STEPS, FEATURES))
    h = keras.layers.LSTM(UNITS, return_sequences=True)(x)
    network = keras.Model(x, keras.layers.Dense(1)(h))
    weights = network.get_weights()
    model = to_stateful(network, ROWS, resets="step")
    model.compile("adam", "mse")

    sides = {name: InTorch(f, weights) for name, f in (("loop", loop_of), ("one", in_one_call))}
    _check_equal(model.predict_on_batch([seen, starts]), targets, sides)

    def ours() -> None:
        reset_states(model)
        model.train_on_batch([seen, starts], targets)

    ways = {"ours": ours, **{name: side.step for name, side in sides.items()}}
    took = interleaved(ways, ROUNDS, warm_up=2)
    what = {"ours": 'this package, `resets="step"`', "one": "one call of `nn.LSTM`, states cleared"}
    backend = keras.backend.backend()
    return (
        [
            row(
                what[way],
                took["loop"] / took[way],
                "times faster",
                against="the loop over time",
                ours=f"{took[way] * 1e3:.0f} ms",
                theirs=f"{took['loop'] * 1e3:.0f} ms",
                backend=backend,
                higher_is_better=True,
            )
            for way in what
        ],
    )


def _check_equal(outputs: np.ndarray, targets: np.ndarray, sides: dict[str, InTorch]) -> None:
    loss = ((outputs - targets) ** 2).mean()
    for side in sides.values():
        padded = side.outputs().detach().numpy().reshape(len(side.pieces), -1)
        for (environment, steps), values in zip(side.pieces, padded, strict=True):
            of_piece = outputs[environment, steps, 0]
            np.testing.assert_allclose(values[: len(of_piece)], of_piece, atol=1e-4)
        np.testing.assert_allclose(float(side.loss().detach()), loss, rtol=1e-4)
