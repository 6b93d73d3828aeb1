"""The manifest: what earlier releases wrote is read, and what is written is what was read."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import keras_stateful as ks
from keras_stateful.foundation.rows import row_indices
from keras_stateful.session.manifest import parse_manifest, read_manifest, write_manifest

pytestmark = pytest.mark.backend_free

# From 0.1.0: states that start at zero, at a few numbers and at many, one of each form in JSON.
BEFORE = Path(__file__).resolve().parents[1] / "fixtures" / "exported_by_0_1"


def test_what_an_earlier_release_exported_runs_as_then():
    expected = json.loads((BEFORE / "outputs.json").read_text())
    with ks.load_session(BEFORE) as session:
        outputs = session.read(np.array([expected["ids"]]))
        assert session.metadata == {"letters": "abcdé"}
    np.testing.assert_allclose(outputs[0], expected["outputs"], atol=1e-5)


def test_a_manifest_is_written_as_an_earlier_release_wrote_it(tmp_path):
    content = (BEFORE / "manifest.json").read_bytes()
    write_manifest(parse_manifest(content), tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == content


def test_a_horizon_of_many_steps_is_read_back(tmp_path):
    """A day in minutes: an export loads what it has written, or it fails."""
    manifest = parse_manifest((BEFORE / "manifest.json").read_bytes())
    of_a_day = dataclasses.replace(manifest.outputs[0], offsets=tuple(range(1, 1441)))
    write_manifest(dataclasses.replace(manifest, outputs=(of_a_day,)), tmp_path)
    assert read_manifest(tmp_path).outputs == (of_a_day,)


def test_a_mask_and_its_indices_are_the_same_rows():
    mask = np.array([True, False, False, True])
    np.testing.assert_array_equal(row_indices(mask, 4), row_indices([0, 3], 4))
    assert row_indices([False] * 4, 4).tolist() == []  # nobody, not everybody
    assert row_indices([3, 0, 0], 4).tolist() == [3, 0, 0]
    for least in (0, 1):
        with pytest.raises(ValueError, match="at least one row index from 0 to 3"):
            row_indices([], 4, least=least)
    with pytest.raises(ValueError, match="a bool mask that names a row"):
        row_indices([False] * 4, 4, least=1)
    with pytest.raises(ValueError, match="each row once"):
        row_indices([0, 0], 4, repeats=False)
