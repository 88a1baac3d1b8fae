"""The loader's measure: what an H100 eats is counted right, and the examples are real ones."""

import dataclasses

import pytest

from acestep_jax.data import sources
from acestep_jax.training.config import Data
from experiments import loader_speed


def test_an_h100_eats_what_its_products_allow():
    # 24 layers of 63 M parameters, by hand; patches, norms and the head add less than 1 %
    width, mlp = 2048, 6144
    attention = 2 * (width * 2048 + 2 * width * 1024 + 2048 * width)
    layers = 24 * (attention + 3 * width * mlp)
    by_hand = 0.4 * 989e12 / (6 * layers * 3000)
    assert loader_speed.eaten_a_second("base", 6000) == pytest.approx(by_hand, rel=0.01)
    assert 14 < by_hand < 15


def test_every_case_draws_all_tasks_from_songs_with_stems_and_deviations():
    record = next(loader_speed.make_songs(1, 9.0))
    assert record.latents.shape == (225, loader_speed.CHANNELS)
    assert record.std is not None and len(record.stems) == 2 and len(record.labels.words) == 22
    for case in loader_speed.cases(quick=False).values():
        assert len(case.data.tasks) == 6


def test_a_small_case_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CACHE_BYTES", 0)
    case = loader_speed.cases(quick=True)["nano, 5 s"]
    data = Data(batch_size=2, num_frames=50, timbre_frames=20, tasks=case.data.tasks)
    case = dataclasses.replace(case, seconds=6.0, num_songs=2, data=data)
    found = loader_speed.measure(case, tmp_path, workers=0)
    assert all(value > 0 for value in found.values())
    assert found["shortest_step_ms_a_core"] * found["examples_a_cpu_second"] == pytest.approx(2000)
    eaten = loader_speed.eaten_a_second("nano", 50)
    assert found["cores_an_h100"] == eaten / found["examples_a_cpu_second"]
