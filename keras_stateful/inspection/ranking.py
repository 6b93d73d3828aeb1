"""`rank_units`: which units follow something that is known of each time step. NumPy only."""

import numpy as np
from numpy.typing import ArrayLike


def rank_units(activations: ArrayLike, feature: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The units that follow something that is known of each time step, best first.

    Args:
        activations: from `record_states`, `(timesteps, units)`.
        feature: bool or float `(timesteps,)`: whether the step is inside quotes, its position in
            the line, ... Steps with NaN are left out.

    Returns:
        Units int `(units,)` and their correlations with the feature, float `(units,)` in [-1, 1],
        by falling absolute value (Pearson's; 0 for a unit that never changes). Among many units
        some correlate by chance: look at the best ones on another text.

    Raises:
        ValueError: activations of another shape, a feature of another length, or one that is the
            same at every step.

    Example:

    ```python
    import numpy as np
    import keras_stateful as ks

    activations = np.random.default_rng(0).normal(size=(200, 16))
    in_quotes = activations[:, 3] > 0
    units, correlations = ks.rank_units(activations, in_quotes)
    assert units[0] == 3 and correlations[0] > 0.7
    ```
    """
    values = checked_activations(activations).astype("float64")
    known = np.asarray(feature)
    if known.dtype.kind not in "biuf" or known.shape != (len(values),):
        raise ValueError(
            f"`feature` must have one bool or number for each of the {len(values)} time steps. "
            f"Received: shape {known.shape}, {known.dtype}."
        )
    known = known.astype("float64")
    values, known = values[~np.isnan(known)], known[~np.isnan(known)]
    if not len(known) or np.ptp(known) == 0:
        raise ValueError(
            f"`feature` must differ between time steps. Received: {len(known)} steps that are not "
            f"NaN, all {known[0] if len(known) else 'left out'}. Record a text in which it "
            "changes."
        )
    # Pearson's correlation is the cosine of the angle between the two, each around its mean.
    values, known = values - values.mean(axis=0), known - known.mean()
    lengths = np.linalg.norm(values, axis=0) * np.linalg.norm(known)
    correlations = np.divide(known @ values, lengths, out=np.zeros(len(lengths)), where=lengths > 0)
    units = np.argsort(-np.abs(correlations), kind="stable")
    return units, correlations[units]


def checked_activations(activations: ArrayLike) -> np.ndarray:
    """Checks that activations are finite numbers `(timesteps, units)` and returns the array."""
    values = np.asarray(activations)
    if values.dtype.kind not in "biuf" or values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            "`activations` must be numbers of shape (timesteps, units), as `record_states` gives. "
            f"Received: shape {values.shape}, {values.dtype}. For a ConvLSTM's, "
            "`activations.reshape(len(activations), -1)`."
        )
    if not np.isfinite(values).all():
        step, unit = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(
            f"`activations` must be finite. Received: {values[step, unit]} in unit {unit} at time "
            f"step {step}. A network whose weights became NaN in training gives these: load "
            "weights saved before."
        )
    return values
