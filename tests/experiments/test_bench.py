"""The bench runs on any file of sizes, and counts what the networks multiply."""

import functools
import json
import math
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn.condition import ConditionEncoder
from acestep_jax.nn.dit import DiT
from acestep_jax.nn.tokenizer import AudioTokenizer, Detokenizer
from acestep_jax.nn.vae import VAE
from experiments import bench
from experiments.benchmarks import counts, problem, timing

SIZES = {
    "name": "toy",
    "dit": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 4,
        "text_hidden_dim": 12,
        "num_lyric_encoder_hidden_layers": 2,
        "num_timbre_encoder_hidden_layers": 1,
        "num_attention_pooler_hidden_layers": 2,
        "fsq_dim": 16,
        "audio_acoustic_hidden_dim": 4,  # the autoencoder's
        "in_channels": 12,
        "timbre_hidden_dim": 4,
    },
    "vae": {
        "encoder_hidden_size": 8,
        "decoder_channels": 4,
        "decoder_input_channels": 4,
        "downsampling_ratios": [2, 4],
        "channel_multiples": [1, 2],
    },
    "planner": {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    },
    "shapes": {
        "prompt_tokens": 6,
        "new_tokens": 5,
        "frames": 41,
        "text_tokens": 5,
        "lyric_tokens": 7,
        "refer_frames": 9,
        "vae_frames": 50,
        "steps": 2,
    },
}


@pytest.fixture
def sizes_file(tmp_path):
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(SIZES))
    return path


@pytest.fixture
def cores():
    """Gives the process its cores back after a test that took some away."""
    before = os.sched_getaffinity(0)
    yield before
    os.sched_setaffinity(0, before)


def _last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_items_are_timed_and_the_last_line_is_json(sizes_file, capsys):
    items = ["dit_loop", "condition_encoder", "detokenizer_b2", "song_b2"]
    bench.main(["--shapes", str(sizes_file), "--repeats", "2", "--items", ",".join(items)])
    report = _last_line(capsys)
    assert list(report["items"]) == items
    for result in report["items"].values():
        assert 0 < result["low_s"] <= result["median_s"] <= result["high_s"]
        assert result["share"] > 0
    assert report["shapes"]["frames"] == 41
    assert report["shapes"]["shift"] == 3.0  # not in the file
    assert report["left_out"] == {}


def test_a_missing_section_leaves_its_items_out_by_name(tmp_path, capsys, cores):
    path = tmp_path / "vae_only.json"
    path.write_text(json.dumps({"vae": SIZES["vae"], "shapes": {"vae_frames": 3, "batch": 2}}))
    bench.main(["--shapes", str(path), "--items", "vae_decode,tokenizer", "--pinned"])
    report = _last_line(capsys)
    assert list(report["items"]) == ["vae_decode"]
    assert "dit" in report["left_out"]["tokenizer"]
    assert (report["clock"], report["threads"]) == ("processor", 1)
    assert report["name"] == "vae_only"


@pytest.mark.torch
def test_diffusers_runs_every_item_at_the_same_sizes(sizes_file, capsys, cores):
    options = ["--repeats", "1", "--against", "diffusers", "--pinned"]
    bench.main(["--shapes", str(sizes_file), "--items", ",".join(problem.ITEMS), *options])
    report = _last_line(capsys)
    assert list(report["items"]) == list(problem.ITEMS)
    for result in report["items"].values():
        assert result["diffusers"]["ratio"] == pytest.approx(
            result["diffusers"]["median_s"] / result["median_s"]
        )


def test_without_pytorch_the_comparison_says_what_to_install(sizes_file, monkeypatch):
    monkeypatch.delitem(sys.modules, "experiments.benchmarks.theirs", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not there
    with pytest.raises(SystemExit, match=r"torch==2\.13\.0"):
        bench.main(["--shapes", str(sizes_file), "--against", "diffusers"])


def test_what_cannot_be_timed_is_refused(sizes_file, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="experiments/shapes"):
        bench.main(["--shapes", str(tmp_path / "none.json")])
    with pytest.raises(ValueError, match="vae_decode"):
        bench.main(["--shapes", str(sizes_file), "--items", "vae_decod"])
    (tmp_path / "empty.json").write_text('{"shapes": {}}')
    with pytest.raises(ValueError, match="'dit', 'vae' or 'planner'"):
        bench.main(["--shapes", str(tmp_path / "empty.json")])
    with pytest.raises(SystemExit):
        bench.main(["--shapes", str(sizes_file), "--compiled"])
    assert "--against" in capsys.readouterr().err


def test_contestants_take_turns_and_the_ratio_is_theirs_over_ours():
    order, now = [], [0.0]

    def work(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds

        return run

    sides = {
        name: timing.Contestant(
            run=work(name, seconds), product=work("product", 0.5), product_operations=4.0
        )
        for name, seconds in (("ours", 2.0), ("theirs", 6.0))
    }
    timings = timing.take_turns(sides, lambda: now[0], repeats=3)
    assert [name for name in order if name != "product"] == ["ours", "theirs"] * 4
    assert timing.ratio(timings["ours"], timings["theirs"]) == pytest.approx(3.0)
    summary = timing.summarise(timings["ours"], operations=12.0)
    # 12 operations at 8 a second would take 1.5 of the 2 seconds
    assert summary["product_gflops"] == pytest.approx(8e-9)
    assert summary["share"] == pytest.approx(0.75)


@pytest.mark.parametrize("window", [None, 0, 3, 18, 19, 40])
def test_visible_pairs_are_those_of_the_band(window):
    i, j = np.indices((20, 20))
    expected = np.sum(abs(i - j) <= (99 if window is None else window))
    assert counts.visible_pairs(20, window) == expected


def _products(jaxpr):
    """Counts multiplications and additions of every product in a traced program."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += 2 * eqn.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
        elif eqn.primitive.name == "conv_general_dilated":
            taps_in = (
                eqn.invars[1].aval.size // eqn.outvars[0].aval.shape[-1]
            )  # kernel [k, in, out]
            total += 2 * eqn.outvars[0].aval.size * taps_in
        inner = sum(_products(sub) for sub in jax.core.jaxprs_in_params(eqn.params))
        total += inner * eqn.params.get("length", 1)
    return total


def _traced(spec, item):
    """Counts the products of our program for an item."""
    inputs = [jnp.asarray(x) for x in problem.draw_inputs(spec, item).values()]
    config = spec.model_config
    if item.startswith("vae"):
        module, args = VAE(spec.vae_config), inputs
        setup = (jnp.zeros((1, 8, 2)), jax.random.key(0))
    elif item == "dit_forward":
        x_t, context, condition = inputs
        module, args = DiT(config), (x_t, jnp.ones(1), context, condition)
    elif item == "condition_encoder":
        text, lyric, timbre = inputs
        masks = [jnp.ones(x.shape[:2], bool) for x in (text, lyric)]
        module, args = ConditionEncoder(config), (text, masks[0], lyric, masks[1], timbre)
    elif item == "tokenizer":
        module, args = AudioTokenizer(config), (inputs[0], inputs[0])
    else:
        module, args = Detokenizer(config), inputs
    params = jax.eval_shape(module.init, jax.random.key(0), *(setup if "vae" in item else args))
    method = item.removeprefix("vae_") if "vae" in item else None
    return _products(jax.make_jaxpr(functools.partial(module.apply, method=method))(params, *args))


@pytest.mark.parametrize(
    "item", [item for item in problem.ITEMS if item not in ("dit_loop", "song", "planner")]
)
def test_counts_are_those_of_the_program(item, sizes_file):
    values = SIZES | {"dit": SIZES["dit"] | {"use_sliding_window": False}}
    sizes_file.write_text(json.dumps(values))
    spec = problem.read_problem(sizes_file)
    traced = _traced(spec, item)
    if item == "dit_forward":
        width = spec.model_config.dit.width
        traced -= 2 * 2 * width * (256 + width + 6 * width)  # two time embeddings, not counted
    # a transposed convolution computes one frame more than it keeps: 1 in 50 of a part
    assert counts.count(spec, item) == pytest.approx(traced, rel=0.02)


def test_the_loop_counts_the_condition_once(sizes_file):
    spec = problem.read_problem(sizes_file)
    forward, loop = (counts.count(spec, item) for item in ("dit_forward", "dit_loop"))
    assert forward < loop < spec.shapes.steps * forward
    assert counts.count(spec, "dit_loop_b2") == 2 * loop


def test_a_planner_counts_every_token_and_what_it_sees(sizes_file):
    spec = problem.read_problem(sizes_file)
    linear = 16 * (2 * 32 + 2 * 16) + 3 * 16 * 24
    seen = 11 * 12 // 2 * 2 * 32  # products with keys and values, 11 tokens in all
    expected = 2 * (2 * (11 * linear + seen) + 5 * 16 * 20)  # half of 40 rows are scored
    assert counts.count(spec, "planner") == expected
    assert counts.count(spec, "planner_b2") == 2 * expected


def test_a_song_counts_its_stages_and_needs_networks_that_fit(sizes_file):
    spec = problem.read_problem(sizes_file)
    stages = sum(counts.count(spec, item) for item in ("condition_encoder", "dit_loop"))
    whole = counts.count(spec, "song")
    sound = counts.count(spec, "vae_decode") * spec.shapes.frames / spec.shapes.vae_frames
    assert whole == pytest.approx(stages + sound, rel=0.01)  # ends of the sound
    assert counts.count(spec, "song_b2") == 2 * whole
    vae = SIZES["vae"] | {"decoder_input_channels": 6}
    sizes_file.write_text(json.dumps(SIZES | {"vae": vae}))
    assert "4 channels, the autoencoder reads 6" in problem.read_problem(sizes_file).lacks("song")
