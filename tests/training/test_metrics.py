"""The log: means over a window, a line of progress, and a run that stops at the first NaN."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.training import config as config_lib
from acestep_jax.training import flops, loop
from acestep_jax.training import metrics as metrics_lib
from tests.train import toys
from tests.training import toy_run


def open_log(folder, **options):
    stream = io.StringIO()
    log = metrics_lib.Metrics(folder, num_steps=6, log_every=3, stream=stream, **options)
    return log, stream


def test_values_are_averaged_over_the_steps_of_a_line(tmp_path):
    log, stream = open_log(tmp_path, examples_per_step=4)
    with log:
        for step in range(1, 7):
            log.write(step, {"loss/fit": jnp.float32(step), "norm": 2 * step})
        log.note(6, {"distance": 0.5})
    series = metrics_lib.read_metrics(tmp_path)
    assert series["loss/fit"] == [(3, 2.0), (6, 5.0)]
    assert series["norm"] == [(3, 4.0), (6, 10.0)]
    assert series["distance"] == [(6, 0.5)]
    for (_, seconds), (_, rate) in zip(
        series["time/step_seconds"], series["time/examples_per_second"], strict=True
    ):
        np.testing.assert_allclose(rate * seconds, 4, rtol=1e-6)
    first, last = stream.getvalue().splitlines()
    assert first.startswith("step 3/6  fit 2  ")
    assert "examples/s" in first
    assert last.endswith("0:00 left")
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_the_log_tells_work_a_second_on_each_device_and_memory(tmp_path):
    log, _ = open_log(tmp_path, num_devices=4)
    with log:
        for step in range(1, 7):
            log.work(flops.Work(operations=4e12))
            log.work(flops.Work(operations=4e12, examples=3, frames=300))
            log.write(step, {})
    series = metrics_lib.read_metrics(tmp_path)
    names = ("step_seconds", "examples_per_second", "frames_per_second", "tflops_per_device")
    seconds, examples, frames, tflops = (series[f"time/{name}"][-1][1] for name in names)
    np.testing.assert_allclose([examples * seconds, frames * seconds], [3, 300], rtol=1e-6)
    np.testing.assert_allclose(tflops * seconds, 8 / 4, rtol=1e-6)
    assert "time/share_of_peak" not in series  # no processor is in the table
    assert 0.1 < series["memory/host_peak_gib"][-1][1] < 100
    assert len(series["time/first_step_seconds"]) == 1


def test_sounds_are_kept_in_the_run_and_turned_down_if_too_loud(tmp_path):
    import soundfile

    log, _ = open_log(tmp_path)
    tone = 2 * np.sin(np.arange(4800) / 10)[:, None] * np.ones((1, 2))
    with log:
        log.audio(3, "song_0", tone, 48_000)
    heard, rate = soundfile.read(tmp_path / "samples" / "000003" / "song_0.wav")
    assert rate == 48_000
    np.testing.assert_allclose(heard, tone / np.abs(tone).max(), atol=1e-4)  # 16 bits


def test_json_lines_are_enough_without_tensorboard(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    log, _ = open_log(tmp_path)
    with log:
        log.write(3, {"loss/fit": 1.0})
        log.audio(3, "sample", np.zeros((10, 2)), 48_000)
    assert metrics_lib.read_metrics(tmp_path)["loss/fit"] == [(3, 1.0)]
    assert not (tmp_path / "tensorboard").exists()


def test_a_resumed_log_forgets_what_came_after_the_checkpoint(tmp_path):
    log, _ = open_log(tmp_path)
    with log:
        for step in range(1, 7):
            log.write(step, {"loss/fit": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "loss')  # a kill in the middle of a line
    log, _ = open_log(tmp_path, start=3)
    with log:
        for step in range(4, 7):
            log.write(step, {"loss/fit": 10 * step})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss/fit"]) for row in rows] == [(3, 2.0), (6, 50.0)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_named(tmp_path, value):
    log, _ = open_log(tmp_path, last_good=lambda: 200)
    log.write(1, {"loss/fit": 1.0})
    message = f"step 2: loss/fit = {value}; the last good checkpoint is that of step 200"
    with pytest.raises(metrics_lib.NonFiniteLoss, match=message):
        with log:
            log.write(2, {"loss/fit": jnp.float32(value), "norm": 1.0})


def test_a_nan_between_two_lines_is_found_too(tmp_path):
    log, _ = open_log(tmp_path)
    with pytest.raises(metrics_lib.NonFiniteLoss, match="no checkpoint was saved before it"):
        log.write(1, {"loss/fit": jnp.nan})
        log.flush()


def test_a_run_stops_at_a_broken_batch_and_saves_nothing_after_it(tmp_path):
    config = toy_run.Toy(
        workdir=str(tmp_path), num_steps=9, save_every=2, log_every=1, blow_up_at=3
    )
    with pytest.raises(metrics_lib.NonFiniteLoss) as caught:
        toy_run.train(config)
    message = str(caught.value)
    assert message.startswith("step 4: loss/fit = inf")
    assert "net/grad_norm = nan" in message
    assert "size" not in message.split(";")[0]  # finite until the broken update
    assert "last good checkpoint is that of step 2" in message
    saved = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert saved == ["2"]


def test_the_profiler_traces_the_steps_asked_for(tmp_path):
    config = toy_run.Toy(
        workdir=str(tmp_path), num_steps=4, profile_start=1, profile_steps=2, log_every=4
    )
    toy_run.train(config)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_loop_gives_the_signals_back(tmp_path):
    import signal

    before = signal.getsignal(signal.SIGTERM)
    config = config_lib.Run(name="run", workdir=str(tmp_path))
    with loop.Loop(config):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    toy = toy_run.Toy(workdir=str(tmp_path), num_steps=1)
    init, _ = toy_run.make_init(toy)
    with loop.Loop(toy) as run:
        run.restore_or_init(init)
        for _ in run.steps(0):
            assert signal.getsignal(signal.SIGTERM) != before
        assert signal.getsignal(signal.SIGTERM) == before  # evaluation can be stopped at once


def test_the_examples_of_a_step_are_those_of_its_batch(tmp_path):
    toy = toy_run.Toy(num_steps=3, log_every=3, workdir=str(tmp_path))
    init, _ = toy_run.make_init(toy)
    with loop.Loop(toy) as run:  # data.batch_size is 16
        state, _ = run.restore_or_init(init)
        step = run.counted(jax.jit(lambda batch: batch.latents.sum()))
        for number, size in enumerate((2, 5, 5)):
            run.end_step(number, state, {"sum": step(toys.batch(size=size))})
    series = metrics_lib.read_metrics(tmp_path)
    rate, seconds = (series[f"time/{n}"][0][1] for n in ("examples_per_second", "step_seconds"))
    np.testing.assert_allclose(rate * seconds, 5, rtol=1e-6)  # the first step compiles: left out


def test_what_was_read_is_logged_with_every_checkpoint(tmp_path):
    class Read:
        def counts(self):
            return {"text2music": 3, "repaint": 1, "redrawn_tasks": 1, "bad_songs": 2}

        def get_state(self):
            return {}

    toy = toy_run.Toy(num_steps=4, save_every=2, log_every=1, workdir=str(tmp_path))
    init, _ = toy_run.make_init(toy)
    with loop.Loop(toy) as run:
        state, _ = run.restore_or_init(init)
        for number in range(4):
            run.end_step(number, state.replace(step=jnp.int32(number + 1)), {}, Read())
    series = metrics_lib.read_metrics(tmp_path)
    assert series["data/repaint"] == [(2, 0.25), (4, 0.25)]
    assert series["data/bad_songs"] == [(2, 2.0), (4, 2.0)]
