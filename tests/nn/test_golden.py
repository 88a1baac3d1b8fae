"""The networks against numbers computed with the released code.

A tiny configuration whose parameters and inputs are hashes of their names (`tests/nn/official.py`),
run through the official modules in float32 on a CPU; of each result the first four values, the
last, the sum and the norm are kept.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn import layers
from acestep_jax.nn.condition import ConditionEncoder, gather_references, pack
from acestep_jax.nn.config import ModelConfig, Qwen3Config
from acestep_jax.nn.dit import DiT
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.nn.tokenizer import AudioTokenizer, Detokenizer
from tests.nn.official import PREFIXES, hashed, load, noise

CONFIG = ModelConfig(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    text_hidden_dim=32,
    fsq_dim=64,
    sliding_window=4,
    num_lyric_encoder_hidden_layers=3,
    num_timbre_encoder_hidden_layers=2,
    timbre_fix_frame=30,
)
MODULES = {
    "dit": DiT(CONFIG),
    "condition_encoder": ConditionEncoder(CONFIG),
    "tokenizer": AudioTokenizer(CONFIG),
    "detokenizer": Detokenizer(CONFIG),
}
TEXT_MASK = np.arange(6)[None] < np.array([[6], [3]])
LYRIC_MASK = np.arange(9)[None] < np.array([[9], [5]])
X, CONTEXT = noise("x", (2, 21, 64)), noise("ctx", (2, 21, 128))
TEXT, LYRIC, REFERENCE = (
    noise(name, shape)
    for name, shape in [("th", (2, 6, 32)), ("lh", (2, 9, 32)), ("ref", (2, 30, 64))]
)
SOURCE, SILENCE = noise("src", (2, 21, 64)), noise("sil", (1, 50, 64))
TIMES = np.array([0.75, 0.3], np.float32)
CONDITION_INPUTS = (TEXT, TEXT_MASK, LYRIC, LYRIC_MASK, REFERENCE, np.array([0, 1]))


@functools.cache
def variables(part: str, module=None):
    inputs = {
        "dit": (X, TIMES, CONTEXT, np.zeros((2, 16, 64), np.float32)),
        "condition_encoder": CONDITION_INPUTS,
        "tokenizer": (X, SILENCE),
        "detokenizer": (np.zeros((2, 5, 64), np.float32),),
    }[part]
    shapes = jax.eval_shape(MODULES[part].init, jax.random.key(0), *inputs)
    return {"params": load(shapes["params"], hashed, PREFIXES[part])}


@functools.cache
def run(part: str, method=None):
    return jax.jit(functools.partial(MODULES[part].apply, variables(part), method=method))


@functools.cache
def condition():
    return jax.jit(
        lambda *x: MODULES["condition_encoder"].apply(
            variables("condition_encoder"), *x, max_refs=1
        )
    )(*CONDITION_INPUTS)


def check(array, first, last, total, norm):
    """Compares first four values, last value, sum and norm, printed to six decimals."""
    array = np.asarray(array, np.float64).ravel()
    # the float32 of two implementations; measured 8e-6 at most over this file
    np.testing.assert_allclose(array[: len(first)], first, atol=3e-5)
    np.testing.assert_allclose(array[-1], last, atol=3e-5)
    # up to 2,688 such values added; measured 1.1e-3 at a norm of 59
    np.testing.assert_allclose(array.sum(), total, atol=1e-4 * norm)
    np.testing.assert_allclose(np.linalg.norm(array), norm, rtol=1e-5)


def test_the_hash_is_reproduced():
    want = [-0.26702073, -0.03313443, 0.98243570, -0.79028046]
    np.testing.assert_allclose(noise("x", (4,)), want, atol=1e-8)


def test_time_features():
    features = np.asarray(layers.time_features(jnp.array([0.5, 0.0])))
    picked = features[0, [0, 1, 2, 127, 128, 129, 130, 255]]
    want = [-0.8838493, 0.9459457, 0.8485069, 0.9985569]
    want += [-0.4677718, 0.3243249, -0.5291843, 0.0537045]
    np.testing.assert_allclose(picked, want, atol=5e-5)  # float32 angles near 500 rad
    np.testing.assert_allclose(features[0].sum(), 57.546986, atol=1e-3)
    np.testing.assert_array_equal(features[1], [1] * 128 + [0] * 128)


def test_bfloat16_times_are_the_released_table():
    for shift, want in {
        1: [1000, 876, 752, 624, 500, 376, 250, 125],
        2: [1000, 932, 856, 768, 668, 548, 400, 223],
        3: [1000, 952, 900, 832, 752, 644, 500, 300],
    }.items():
        t = 1 - np.arange(8) / 8
        t = jnp.asarray(shift * t / (1 + (shift - 1) * t), jnp.float32)
        exact = jnp.array(want, jnp.float32) / layers.TIME_SCALE
        got = layers.time_features(t, bfloat16=True)
        np.testing.assert_allclose(got, layers.time_features(exact), atol=1e-4)


def test_time_embedding():
    module = layers.TimeEmbedding(64)
    params = variables("dit")["params"]["time_embed"]
    embedding, projection = module.apply({"params": params}, jnp.asarray(TIMES))
    check(embedding, [-0.019387, 1.264008, -0.629329, -1.130463], 0.841747, 3.21479, 9.23494)
    check(projection, [0.637247, -0.515326, 0.456509, -0.179596], 0.303472, 9.19228, 11.80772)


def test_lyric_encoder_with_padding():
    module = MODULES["condition_encoder"]
    lyric = jax.jit(
        lambda: module.apply(
            variables("condition_encoder"),
            LYRIC,
            LYRIC_MASK,
            method=lambda module, x, mask: module.lyric_encoder(x, mask),
        )
    )()
    first = [-0.524033, 2.179080, 0.780406, 0.094496]
    check(lyric[0], first, 0.103371, 42.85476, 24.20538)
    first = [-1.098801, -0.984547, -0.048597, -0.861335]
    check(lyric[1, :5], first, 0.003018, -97.08605, 17.93416)
    # padding, whose first sliding layer has rows that see no key
    first = [-1.062820, -0.742088, 0.677981, -1.447120]
    check(lyric[1, 5:], first, 0.908449, -87.57792, 16.15017)


@pytest.mark.parametrize(
    "token,expected",
    [
        (False, ([-1.260252, -0.936553, 0.402254, 1.108966], -1.653736, 7.64937, 11.22829)),
        (True, ([-0.408405, -0.300679, -2.119874, 0.965198], 0.963097, -7.63856, 11.13526)),
    ],
)
def test_timbre_encoder_reads_its_first_position(token, expected):
    config = ModelConfig(**{**vars(CONFIG), "prepend_timbre_token": token})
    timbre = jax.jit(
        lambda: ConditionEncoder(config).apply(
            variables("condition_encoder"),
            REFERENCE,
            method=lambda module, x: module.timbre_encoder(x),
        )
    )()
    check(timbre, *expected)


def test_condition_is_packed_with_real_tokens_first():
    encoded, mask = condition()
    assert mask.sum(axis=1).tolist() == [16, 9]
    check(encoded[0], [-0.524033, 2.179080, 0.780406, 0.094496], 0.277407, 30.69601, 26.40417)
    check(encoded[1], [-1.098801, -0.984547, -0.048597, -0.861335], 0.011091, -168.77650, 26.33448)


def test_velocity():
    velocity = run("dit")(X, TIMES, CONTEXT, condition()[0])
    check(velocity[0], [1.357994, 0.662715, 1.455269, -1.296839], -1.269516, -13.37438, 59.32968)
    check(velocity[1], [2.642660, 0.160660, 2.174029, -1.823756], -2.878756, 175.61148, 58.28331)


def test_velocity_averaged_down_to_zero():
    velocity = run("dit")(X, TIMES, CONTEXT, condition()[0], r=np.zeros(2, np.float32))
    check(velocity, [3.191525, 0.890124, -0.810966, -1.176851], -2.074446, -131.62499, 91.46718)


def test_codes_and_back():
    quantized, codes = run("tokenizer")(X, SILENCE)
    want = [[6198, 34926, 22205, 4732, 16228], [23978, 5342, 21076, 37765, 11311]]
    np.testing.assert_array_equal(codes, want)
    check(quantized, [0.453042, -0.222050, 0.079921, -0.171515], -0.127029, -0.19844, 5.27512)
    np.testing.assert_allclose(run("tokenizer", "decode_codes")(codes), quantized, atol=1e-6)
    hints = run("detokenizer")(quantized)
    check(hints, [-0.550176, -0.659328, -0.272748, 0.268796], -1.535758, 63.86808, 54.15289)


def _sample(times, velocity):
    x_t = noise("noise", (2, 21, 64))
    for t, t_next in itertools.pairwise(times):
        x_t = x_t - velocity(x_t, t) * (t - t_next)
    return x_t


def _turbo_times(shift):
    t = 1 - np.arange(9, dtype=np.float32) / 8
    return shift * t / (1 + (shift - 1) * t)


def _context(source):
    return np.concatenate([source, np.ones_like(source)], axis=-1)


def _cover_context():
    """Item 1 is a cover: its source is replaced by its own codes, decoded."""
    quantized, _ = run("tokenizer")(SOURCE, SILENCE)
    hints = np.asarray(run("detokenizer")(quantized))[:, :21]
    return _context(np.stack([SOURCE[0], hints[1]]))


def test_eight_turbo_steps():
    cross = run("dit", "project_condition")(condition()[0])
    context = _cover_context()
    times = _turbo_times(3.0)
    sample = _sample(times, lambda x_t, t: run("dit")(x_t, np.full(2, t), context, cross))
    check(sample[0], [-1.069286, -0.076969, 1.066581, 0.453137], 0.417667, -107.05570, 45.22383)
    check(sample[1], [-1.000554, -0.506592, 0.079916, 0.441838], -0.047421, -124.18724, 47.44976)


def test_a_cover_half_way_becomes_its_own_song():
    cover = run("dit", "project_condition")(condition()[0]), _cover_context()
    free_condition = jax.jit(
        lambda *x: MODULES["condition_encoder"].apply(
            variables("condition_encoder"), *x, max_refs=1
        )
    )(noise("nc", (2, 6, 32)), *CONDITION_INPUTS[1:])[0]
    silence = np.repeat(SILENCE[:, :21], 2, axis=0)
    free = run("dit", "project_condition")(free_condition), _context(silence)
    times = _turbo_times(3.0)

    def velocity(x_t, t):
        cross, context = cover if t > times[4] else free  # strength 0.5 of eight steps
        return run("dit")(x_t, np.full(2, t), context, cross)

    first = [-1.188518, -0.088275, 1.104995, 0.389004]
    check(_sample(times, velocity), first, -0.065269, -220.34913, 63.56195)


def test_four_plain_steps_of_the_base_model():
    cross = run("dit", "project_condition")(condition()[0])
    context = _cover_context()
    times = 1 - np.arange(5, dtype=np.float32) / 4
    sample = _sample(times, lambda x_t, t: run("dit")(x_t, np.full(2, t), context, cross))
    first = [-2.388534, -0.251966, 1.222228, 1.265393]
    check(sample, first, -0.863380, -116.14126, 69.18944)


def test_qwen3_hidden_states():
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    tokens = jnp.array([[3, 7, 11, 49, 0, 3, 1]])
    shapes = jax.eval_shape(Qwen3(config).init, jax.random.key(0), tokens)
    params = load(shapes["params"], hashed)
    hidden = jax.jit(Qwen3(config).apply)({"params": params}, tokens)
    first = [-0.689537, -0.379114, 0.787648, -0.603116]
    check(hidden, first, -0.513842, -16.42954, 14.84852)


def test_packing_keeps_the_order_of_both_groups():
    first, second = np.arange(10, 15)[None, :, None], np.arange(20, 23)[None, :, None]
    packed, mask = pack(
        jnp.asarray(first), jnp.asarray(second), np.array([[1, 1, 0, 1, 0]]), np.array([[0, 1, 1]])
    )
    assert packed[0, :, 0].tolist() == [10, 11, 13, 21, 22, 12, 14, 20]
    assert mask[0].tolist() == [True] * 5 + [False] * 3


def test_references_keep_their_order_inside_an_item():
    timbre = jnp.arange(4.0)[:, None]
    gathered, mask = gather_references(timbre, jnp.array([1, 0, 1, 1]), num_items=3, max_refs=3)
    assert gathered[..., 0].tolist() == [[1, 0, 0], [0, 2, 3], [0, 0, 0]]
    assert mask.sum(axis=1).tolist() == [1, 3, 0]
