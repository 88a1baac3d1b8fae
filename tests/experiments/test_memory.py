"""The memory of a song is read from compiled programs, and the smallest sizes run the same code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import memory


def test_a_stage_needs_its_arguments_results_and_temporaries():
    params = {"w": jax.ShapeDtypeStruct((64, 64), jnp.float32)}
    x = jax.ShapeDtypeStruct((8, 64), jnp.float32)
    stage = jax.jit(lambda params, x: jnp.tanh(x @ params["w"]) @ params["w"].T)
    need = memory.measure_stage(None, stage, params, x)
    assert need.params == 64 * 64 * 4
    assert need.arguments == need.params + 8 * 64 * 4
    assert need.results == 8 * 64 * 4
    assert need.total == need.arguments + need.results + need.temporaries
    # the same program, said to be for one device: named ones may not be attached at all
    assert memory.measure_stage(jax.devices()[-1], stage, params, np.zeros((8, 64), "f")) == need


def test_the_2b_models_parameters_are_counted_without_allocating_them():
    whole, half, small = (
        memory.Model.build("turbo", precision).resident() for precision in memory._PRECISIONS
    )
    assert half == whole / 2
    assert 11e9 < whole < 13e9  # 2.4 billion, 0.6 of the text encoder, 0.17 of the autoencoder
    assert 0.5 < small / half < 0.65


@pytest.mark.timeout(600)
def test_the_table_has_every_stage_and_the_limit_decides_the_exit(capsys):
    arguments = ["--presets", "toy", "--weights", "int8", "--seconds", "10"]
    assert memory.main([*arguments, "--limit_gb", "8"]) == 0
    head, row, verdict = capsys.readouterr().out.splitlines()[1:]
    assert head.split()[:4] == ["preset", "weights", "s", "listen"]
    assert row.split()[:3] == ["toy", "int8", "10"] and len(row.split()) == 9
    assert verdict == "1 of 1 under 8 GB by stage"


def test_the_relative_error_of_halves_is_a_half():
    x = jnp.asarray(np.random.default_rng(0).standard_normal(100), jnp.float32)
    assert memory.relative_error(x, 1.5 * x) == pytest.approx(0.5)
