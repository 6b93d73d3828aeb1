"""An LSTM with a linear head in plain NumPy, forward and backward: the reference that shares no
code with Keras.
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class NumpyLSTM:
    """LSTM and Dense trained with SGD on a weighted squared error, truncated at windows, state
    carried.

    Weights are Keras's: kernel, recurrent kernel, bias (gates i, f, c, o), head kernel, head bias.
    """

    def __init__(self, weights, rows):
        self.w = [np.array(w, "float64") for w in weights]
        units = self.w[1].shape[0]
        self.h, self.c = np.zeros((rows, units)), np.zeros((rows, units))

    def window(self, x, y, weight, reset, rate):
        """Trains on one window; gives the loss before the update.

        x (rows, time, features), y (rows, time, outputs), weight (rows, time), reset bool (rows,
        time).
        """
        kernel, recurrent, bias, head, head_bias = self.w
        rows, time = x.shape[:2]
        units = recurrent.shape[0]
        h, c, tape, loss = self.h, self.c, [], 0.0
        for t in range(time):
            keep = ~reset[:, t, None]
            h0, c0 = h * keep, c * keep
            i, f, g, o = np.split(x[:, t] @ kernel + h0 @ recurrent + bias, 4, axis=1)
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            c = f * c0 + i * g
            h = o * np.tanh(c)
            error = h @ head + head_bias - y[:, t]
            loss += (weight[:, t, None] * error**2).sum()
            tape.append((x[:, t], h0, c0, i, f, g, o, c, h, error * weight[:, t, None], keep))
        count = y.size
        grads = [np.zeros_like(w) for w in self.w]
        dh, dc = np.zeros((rows, units)), np.zeros((rows, units))
        for xt, h0, c0, i, f, g, o, ct, ht, error, keep in reversed(tape):
            out = 2 * error / count
            grads[3] += ht.T @ out
            grads[4] += out.sum(0)
            dh = dh + out @ head.T
            tanh_c = np.tanh(ct)
            dc = dc + dh * o * (1 - tanh_c**2)
            gates = np.concatenate(
                [
                    dc * g * i * (1 - i),
                    dc * c0 * f * (1 - f),
                    dc * i * (1 - g**2),
                    dh * tanh_c * o * (1 - o),
                ],
                axis=1,
            )
            grads[0] += xt.T @ gates
            grads[1] += h0.T @ gates
            grads[2] += gates.sum(0)
            dh, dc = (gates @ recurrent.T) * keep, dc * f * keep
        self.h, self.c = h, c
        self.w = [w - rate * g for w, g in zip(self.w, grads, strict=True)]
        return loss / count
