"""States are recorded as one long call leaves them, ranked as NumPy says, and drawn as they are."""

import base64
import html
import json
import re
import sys

import keras
import numpy as np
import pytest

import keras_stateful as ks
from keras_stateful.foundation.version import pip_install

pytestmark = pytest.mark.backend_free

pytest.importorskip("matplotlib").use("Agg")

IDS = 11


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(IDS, 4),
            keras.layers.GRU(3, return_sequences=True, name="below"),
            keras.layers.LSTM(5, return_sequences=True, name="above"),
            keras.layers.Dense(IDS),
        ]
    )


@pytest.fixture
def ids():
    return np.random.default_rng(0).integers(0, IDS, 30)


@pytest.mark.parametrize(
    ("layer", "state", "units"), [(None, 0, 5), ("above", 1, 5), ("below", 0, 3)]
)
def test_the_states_recorded_are_those_after_each_step(model, ids, layer, state, units):
    recorded = ks.record_states(model, ids, layer, state=state)
    assert recorded.shape == (30, units)
    live = ks.to_inference(model)
    for stop in (1, 2, 17, 30):
        ks.reset_states(live)
        live.predict_on_batch(ids[None, :stop])
        expected = ks.get_states(live)[layer or "above"][state][0]
        np.testing.assert_allclose(recorded[stop - 1], expected, atol=1e-6)


def test_recording_a_model_in_training_leaves_no_trace(model, ids):
    training = ks.to_stateful(model, 2)
    training.predict_on_batch(np.ones((2, 4), int))
    before = ks.get_states(training)
    np.testing.assert_allclose(
        ks.record_states(training, ids), ks.record_states(model, ids), atol=1e-6
    )
    for a, b in zip(before.values(), ks.get_states(training).values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_recording_compiles_once(model):
    """A twin whose cell is not built runs eagerly on JAX and compiles in each step: for minutes."""
    assert len(ks.record_states(model, np.zeros(1000, int))) == 1000
    np.testing.assert_array_equal(
        ks.record_states(model, [1, 2], state=np.int64(0)), ks.record_states(model, [1, 2], state=0)
    )
    twin = ks.to_inference(model, share_weights=True)
    assert all(layer.cell.built for layer in twin.layers if isinstance(layer, keras.layers.RNN))


def test_units_are_ranked_by_correlation():
    rng = np.random.default_rng(1)
    activations = np.c_[rng.normal(size=(300, 4)), np.ones(300)]
    feature = 0.5 * rng.normal(size=300) - activations[:, 2]
    feature[7] = np.nan
    units, correlations = ks.rank_units(activations, feature)
    known = ~np.isnan(feature)
    by_hand = [np.corrcoef(activations[known, u], feature[known])[0, 1] for u in range(4)] + [0.0]
    assert units[0] == 2
    assert units[-1] == 4  # it never changes
    np.testing.assert_allclose(correlations, np.array(by_hand)[units], atol=1e-12)
    assert (np.diff(np.abs(correlations)) <= 1e-12).all()


def test_the_page_holds_the_text_escaped_and_every_value(tmp_path):
    text = "</script><b>&\"'\u2028 x\n"
    activations = np.linspace(-1, 1, len(text) * 3).reshape(len(text), 3)
    title = "<i>units</i> & more"
    path = ks.plot_activations(text, activations, path=tmp_path / "page.html", title=title)
    page = path.read_text("ascii")
    assert "<b>" not in page
    assert "<i>units" not in page
    assert html.escape(title) in page
    assert page.count("</script>") == page.count("<script")
    assert not re.search(r"(src|href)\s*=|https?://|@import", page)
    (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    stored = json.loads(data)
    assert "".join(stored["text"]) == text
    assert stored["units"] == [0, 1, 2]
    whole = np.frombuffer(base64.b64decode(stored["values"]), "<i2").reshape(3, -1)
    shown = whole / np.abs(whole).max(axis=1, keepdims=True) * np.array(stored["scales"])[:, None]
    np.testing.assert_allclose(shown.T, activations, atol=1e-3)


def test_the_figure_colours_each_step():
    text = ["two", " ", "words"]
    figure = ks.plot_activations(text, np.array([[0.0, 1.0], [0.5, -1.0], [-0.5, 0.0]]), [1, 0])
    panels = [axes for axes in figure.axes if axes.get_title("left")]
    assert [axes.get_title("left") for axes in panels] == ["unit 1", "unit 0"]
    np.testing.assert_array_equal(panels[0].collections[0].get_array(), [1, -1, 0])
    assert [t.get_text() for t in panels[0].texts] == ["two", "words"]


@pytest.mark.parametrize("boundary", ["align", "pack", "ignore"])
def test_the_layout_covers_what_the_sequence_says(boundary):
    documents = [np.arange(n) for n in (60, 30, 45, 80, 25)]
    sequence = ks.StatefulSequence(documents, 2, 16, boundary=boundary)
    axes = ks.plot_layout(sequence).axes[0]
    covered = np.zeros((2, 16 * len(sequence)), int)
    for row in range(2):
        (bars,) = (c for c in axes.collections if c.get_label() == f"row {row}")
        for path in bars.get_paths():
            left, right = path.vertices[:, 0].min(), path.vertices[:, 0].max()
            covered[row, int(left) : int(right)] += 1
    real = np.zeros_like(covered)
    resets = 0
    for i in range(len(sequence)):
        resets += int(sequence.reset_mask(i).sum())
        for row, spans in enumerate(sequence.locate(i)):
            for span in spans:
                begin = 16 * i + span.column
                real[row, begin : begin + span.steps] += 1
    np.testing.assert_array_equal(covered, real)
    (marks,) = (c for c in axes.collections if c.get_label() == "resets")
    assert len(marks.get_segments()) == resets


CURVE = {
    "position": np.array([0, 1, 2, 4]),
    "steps": np.array([3, 3, 6, 2]),
    "loss": np.array([2.0, 1.5, 1.0, np.nan]),
    "accuracy": np.array([0.1, 0.2, 0.3, 0.4]),
}


def test_a_score_is_drawn_at_the_steps_that_were_read():
    above, below = ks.plot_positions(CURVE, score="accuracy", training_window=2).axes
    (line, mark) = above.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 5])
    np.testing.assert_array_equal(line.get_ydata(), CURVE["accuracy"])
    assert list(mark.get_xdata()) == [2, 2]
    bars = [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in below.patches]
    assert bars == [(1, 1, 3), (2, 1, 3), (3, 2, 6), (5, 4, 2)]  # beside each other
    assert above.get_legend() is None
    worse = {**CURVE, "loss": CURVE["loss"] + 1}
    above, _ = ks.plot_positions({"carried": CURVE, "reset": worse}).axes
    for line, curve in zip(above.get_lines(), (CURVE, worse), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), curve["loss"])
    assert [t.get_text() for t in above.get_legend().get_texts()] == ["carried", "reset"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: ks.plot_activations("ab", np.ones((2, 1))),
        lambda: ks.plot_layout(ks.StatefulSequence(np.arange(40), 2, 4)),
        lambda: ks.plot_positions(CURVE),
    ],
)
def test_without_matplotlib_the_error_gives_the_command(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape(pip_install("plots"))):
        draw()


BAD = {
    "a layer that does not exist": (
        lambda m: ks.record_states(m, [1], "lstm"),
        ["layer", "lstm", "above"],
    ),
    "a state that does not exist": (
        lambda m: ks.record_states(m, [1], state=2),
        ["state=2", "above"],
    ),
    "a state that is a flag": (
        lambda m: ks.record_states(m, [1], state=True),
        ["`state` must be an int", "state=True"],
    ),
    "several documents": (
        lambda m: ks.record_states(m, [[1, 2, 3], [1, 2]]),
        ["`ids` must be one document", "a list of 2", "for each"],
    ),
    "several documents of one length": (
        lambda m: ks.record_states(m, [[1, 2], [1, 2], [0, 1]]),
        ["`ids` must be one document", "(3, 2)", "for each"],
    ),
    "several documents in an array": (
        lambda m: ks.record_states(m, np.array([[1, 2], [3], [1]], object)),
        ["ids", "object"],
    ),
    "text for ids": (lambda m: ks.record_states(m, "abc"), ["ids", "<U3", "Encode"]),
    "an id beyond the vocabulary": (lambda m: ks.record_states(m, [IDS]), [str(IDS)]),
    "no recurrent layer": (
        lambda m: ks.record_states(
            keras.Sequential([keras.Input((None, 2)), keras.layers.Dense(2)]), np.ones((3, 2))
        ),
        ["nothing that carries a state", "dense"],
    ),
    "a unit that does not exist": (
        lambda m: ks.plot_activations("ab", np.ones((2, 3)), 3),
        ["unit", "0 to 2", "3"],
    ),
    "text of another length": (
        lambda m: ks.plot_activations("abc", np.ones((2, 3))),
        ["3 characters", "2 time steps"],
    ),
    "activations of one axis": (
        lambda m: ks.plot_activations("ab", np.ones(2)),
        ["activations", "(2,)"],
    ),
    "activations that are NaN": (
        lambda m: ks.plot_activations("ab", np.full((2, 1), np.nan)),
        ["finite", "nan"],
    ),
    "a page that is no page": (
        lambda m: ks.plot_activations("ab", np.ones((2, 1)), path="x.png"),
        ["path", ".html"],
    ),
    "a constant feature": (lambda m: ks.rank_units(np.ones((2, 1)), [1, 1]), ["feature"]),
    "a feature of another length": (
        lambda m: ks.rank_units(np.ones((2, 1)), [1, 0, 1]),
        ["feature", "(3,)"],
    ),
    "a layout of something else": (lambda m: ks.plot_layout([1]), ["StatefulSequence", "list"]),
    "positions that are none": (
        lambda m: ks.plot_positions([1, 2]),
        ["`positions` must be a dict", "list", 'by="position"'],
    ),
    "the scores of documents": (
        lambda m: ks.plot_positions({"loss": np.ones(3)}),
        ["without positions", "'loss': ndarray", 'by="position"'],
    ),
    "one of two curves without positions": (
        lambda m: ks.plot_positions({"carried": CURVE, "reset": {"loss": np.ones(4)}}),
        ["without positions", "'reset': ['loss']"],
    ),
    "a score that was not given": (
        lambda m: ks.plot_positions(CURVE, score="auc"),
        ["score='auc'", "['accuracy', 'loss']"],
    ),
    "a window of no steps": (
        lambda m: ks.plot_positions(CURVE, training_window=0),
        ["`training_window` must be 1 or more"],
    ),
    "a batch that does not exist": (
        lambda m: ks.plot_layout(ks.StatefulSequence(np.arange(40), 2, 4), first=9),
        ["first=9"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(model, case):
    call, fragments = BAD[case]
    with pytest.raises((ValueError, TypeError)) as caught:
        call(model)
    assert not [f for f in fragments if f not in str(caught.value)], str(caught.value)
