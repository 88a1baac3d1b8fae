"""The report of a distillation: every section, and warnings by name."""

import json

import numpy as np

from acestep_jax.training import report_distill
from acestep_jax.units import SAMPLE_RATE
from tests.train import toys

TABLE = {
    name: {"pair error": i, "law": 0.5, "law to real songs": 0.25, "spread": 1.5}
    for i, name in enumerate(("teacher, 2 guided steps", "student, 2 steps", "the same"))
}


def _workdir(tmp_path, accuracy):
    rows = [
        {"step": i, "loss/fake": 1.0 / i, "discriminator/accuracy": accuracy, "dm_gap": 0.3}
        for i in range(1, 9)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def _songs():
    rng = np.random.default_rng(0)
    return {name: 0.1 * rng.standard_normal((1, SAMPLE_RATE // 2, 2)) for name in TABLE}


def test_a_report_warns_by_name_and_draws_what_is_heard(tmp_path):
    workdir = _workdir(tmp_path, accuracy=0.9)
    path, findings = report_distill.write(toys.DISTILL, workdir, TABLE, _songs(), ["a waltz"])
    page = path.read_text()
    assert "Warning: discriminator/accuracy is 0.9, above 0.8" in page
    assert {f.diagnostic.name for f in findings if f.warning} == {"discriminator/accuracy"}
    for words in ("a waltz", "Mean spectrum, dB", "Loudness, dB of full scale", "loss/fake"):
        assert words in page
    assert page.count("<audio") == 2  # the last row is for the numbers only


def test_a_report_without_sound_and_without_trouble_says_so(tmp_path):
    workdir = _workdir(tmp_path, accuracy=0.7)
    path, findings = report_distill.write(toys.DISTILL, workdir, TABLE, {}, [])
    page = path.read_text()
    assert "No diagnostic leaves its healthy range." in page
    assert "Spectra" not in page and "<audio" not in page
    assert len(findings) == 2
