"""Every implementation of attention is the reference, in values and in gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import masks
from acestep_jax.ops.attention import attend_cached, attention, probabilities


def _inputs(length=70, num_keys=None, heads=4, kv_heads=2, width=8, batch=2):
    num_keys = num_keys or length
    rng = np.random.default_rng(0)
    shapes = [(length, heads), (num_keys, kv_heads), (num_keys, kv_heads)]
    return tuple(rng.normal(size=(batch, *shape, width)).astype(np.float32) for shape in shapes)


def _run(q, k, v, implementation, **options):
    call = functools.partial(attention, implementation=implementation, **options)
    return np.asarray(jax.jit(call)(q, k, v))


def _key_mask(num_keys, kind):
    """One item whole, one with a hole, a padded tail and queries that see nothing."""
    if kind == "whole":
        return None
    mask = np.ones((2, num_keys), bool)
    mask[1, 3:6] = False
    mask[1, 11:] = False
    return jnp.asarray(mask)


def _by_hand(q, k, v, window, key_mask, causal):
    """The definition in NumPy float64, head by head."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b, n in np.ndindex(q.shape[0], q.shape[2]):
        kv_head = n // (q.shape[2] // k.shape[2])
        logits = q[b, :, n] @ k[b, :, kv_head].T / np.sqrt(q.shape[-1])
        i, j = np.indices(logits.shape)
        seen = np.ones_like(logits, bool) if window is None else abs(i - j) <= window
        seen &= (j <= i) | (not causal)
        seen &= True if key_mask is None else np.asarray(key_mask)[b]
        logits = np.where(seen, logits, np.finfo(np.float32).min)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        out[b, :, n] = weights / weights.sum(-1, keepdims=True) @ v[b, :, kv_head]
    return out


@pytest.mark.parametrize("kind", ["whole", "padded"])
@pytest.mark.parametrize("window,causal", [(None, False), (5, False), (None, True), (5, True)])
def test_reference_follows_the_definition(window, causal, kind):
    q, k, v = _inputs(23)
    mask = _key_mask(23, kind)
    got = _run(q, k, v, "reference", window=window, key_mask=mask, causal=causal)
    # float32 against float64; measured 7e-7
    np.testing.assert_allclose(got, _by_hand(q, k, v, window, mask, causal), atol=5e-6)


CASES = [
    ("chunked", None, False, 70, None),
    ("chunked", 5, True, 70, None),
    ("chunked", 20, False, 70, None),
    ("chunked", None, False, 37, 90),
    ("headwise", None, False, 70, None),
    ("headwise", None, True, 37, 37),
    ("banded", 5, False, 70, None),
    ("banded", 20, False, 70, None),
    ("banded", 20, True, 70, None),
    ("portable", 16, False, 80, None),
    ("auto", None, False, 70, None),
]


@pytest.mark.parametrize("kind", ["whole", "padded"])
@pytest.mark.parametrize("name,window,causal,length,num_keys", CASES)
def test_implementations_agree_in_values_and_gradients(
    name, window, causal, length, num_keys, kind, monkeypatch
):
    monkeypatch.setattr("acestep_jax.ops.attention._CACHED_LOGITS", 16 * 8 * 90)  # several chunks
    q, k, v = _inputs(length, num_keys)
    mask = _key_mask(num_keys or length, kind)
    _assert_same(q, k, v, name, window=window, causal=causal, key_mask=mask)


@pytest.mark.parametrize("window", [None, 20])
def test_tpu_kernel_agrees_when_interpreted(window):
    q, k, v = _inputs(150, heads=2, kv_heads=1, width=16)
    # the kernel's float32 products, interpreted here; measured 2e-6
    _assert_same(q, k, v, "splash_interpret", window=window, key_mask=_key_mask(150, "padded"))


def _assert_same(q, k, v, name, *, causal=False, **options):
    def loss(arrays, implementation):
        out = attention(*arrays, causal=causal, implementation=implementation, **options)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out

    run = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    want_gradients, want = run((q, k, v), "reference")
    gradients, got = run((q, k, v), name)
    np.testing.assert_allclose(got, want, atol=5e-6)  # float32 sums in another order
    for one, other in zip(gradients, want_gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_fused_gpu_kernel_says_what_it_does_not_cover():
    q, k, v = _inputs(20)
    with pytest.raises(ValueError, match="banded"):
        attention(q, k, v, window=3, implementation="cudnn")


FORMS = [("reference", None), ("headwise", None), ("banded", 4), ("chunked", None), ("chunked", 4)]


@pytest.mark.parametrize("name,window", FORMS)
def test_a_query_without_keys_averages_all_values(name, window):
    q, k, v = _inputs(40)
    got = _run(q, k, v, name, window=window, key_mask=np.zeros((2, 40), bool))
    want = np.repeat(v.mean(axis=1, keepdims=True), 2, axis=2)
    np.testing.assert_allclose(got, np.broadcast_to(want, q.shape), atol=1e-6)


@pytest.mark.parametrize("name,window", FORMS)
def test_a_padded_item_equals_the_item_alone(name, window):
    q, k, v = _inputs(33)
    padding = ((0, 0), (0, 31), (0, 0), (0, 0))
    mask = np.arange(64)[None] < np.full((2, 1), 33)
    junk = (np.pad(x, padding, constant_values=7.0) for x in (q, k, v))
    padded = _run(*junk, name, window=window, key_mask=mask)[:, :33]
    # other sums of the same float32
    np.testing.assert_allclose(padded, _run(q, k, v, name, window=window), atol=2e-6)


def test_gradients_do_not_cross_the_window():
    q, k, v = _inputs(64, batch=1)

    @jax.jit
    @jax.grad
    def slope(v):
        return attention(q, k, v, window=4, implementation="banded")[0, 30].sum()

    reached = np.abs(np.asarray(slope(v))).sum(axis=(0, 2, 3)) > 0
    assert np.flatnonzero(reached).tolist() == list(range(26, 35))


def test_banded_cost_grows_linearly():
    def flops(length):
        q, k, v = _inputs(length, batch=1)
        run = jax.jit(lambda *x: attention(*x, window=16, implementation="banded"))
        return run.lower(q, k, v).compile().cost_analysis()["flops"]

    assert flops(1024) < 2.2 * flops(512)


def test_chunked_never_holds_all_logits():
    q, k, v = _inputs(2048, heads=8, kv_heads=4, batch=1)
    run = jax.jit(jax.grad(lambda q: attention(q, k, v, implementation="chunked").sum()))
    temporaries = run.lower(q).compile().memory_analysis().temp_size_in_bytes
    assert temporaries < 8 * 2048 * 2048 * 4  # the logits alone


@pytest.mark.parametrize("name,window", FORMS)
def test_forward_mode_derivatives_pass_through(name, window):
    q, k, v = _inputs(40)
    direction = np.ones_like(q)

    @jax.jit
    def both(q):
        def run(q):
            return attention(q, k, v, window=window, implementation=name)

        slope = (run(q + 1e-2 * direction) - run(q - 1e-2 * direction)) / 2e-2
        return jax.jvp(run, (q,), (direction,))[1], slope

    np.testing.assert_allclose(*both(q), atol=1e-3)  # central difference, error O(h^2)


def test_probabilities_reproduce_the_output():
    q, k, v = _inputs(21)
    options = dict(window=6, key_mask=_key_mask(21, "padded"))
    weights = np.asarray(jax.jit(functools.partial(probabilities, **options))(q, k))
    got = np.einsum("BNTS,BSNH->BTNH", weights, np.repeat(v, 2, axis=2))
    np.testing.assert_allclose(got, _run(q, k, v, "reference", **options), atol=2e-6)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)


def test_buffers_of_a_decoding_loop_give_what_attention_gives():
    q, k, v = _inputs(24)
    hidden = _key_mask(24, "padded")
    whole = _run(q, k, v, "reference", causal=True, key_mask=hidden)
    keys = k.transpose(0, 2, 3, 1).reshape(-1, k.shape[3], 24)
    values = v.swapaxes(1, 2).reshape(-1, 24, v.shape[3])
    seen = np.asarray(hidden)[:, None] & (np.arange(24) <= np.arange(10, 13)[:, None])
    tail = jax.jit(attend_cached)(q[:, 10:13], keys, values, seen)
    np.testing.assert_allclose(tail, whole[:, 10:13], atol=2e-6)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_portable_attention_lowers_for_every_platform(platform):
    q, k, v = _inputs(64)
    run = jax.jit(lambda q, k, v: attention(q, k, v, window=8, implementation="portable"))
    exported = jax.export.export(run, platforms=[platform])(q, k, v)
    assert exported.platforms == (platform,)


def test_the_tpu_kernel_lowers_without_a_tpu():
    q, k, v = (x.astype(jnp.bfloat16) for x in _inputs(300, width=128))
    run = jax.jit(lambda q, k, v: attention(q, k, v, window=128, implementation="splash"))
    exported = jax.export.export(run, platforms=["tpu"])(q, k, v)
    assert "tpu_custom_call" in exported.mlir_module()


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(implementation="flash"), "unknown"),
        (dict(implementation="banded"), "needs a window"),
    ],
)
def test_impossible_requests_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        attention(*_inputs(12), **options)


def test_window_needs_as_many_queries_as_keys():
    with pytest.raises(ValueError, match="as many queries as keys"):
        attention(*_inputs(12, 15), window=3)


def test_sees_a_key_is_the_row_sum_of_the_mask():
    mask = np.random.default_rng(0).random((3, 40)) < 0.1
    for window, causal in [(None, False), (3, False), (None, True), (3, True)]:
        geometry = masks.geometry(40, 40, window=window, is_causal=causal)
        geometry = np.ones((40, 40), bool) if geometry is None else np.asarray(geometry)
        full = mask[:, None, :] & geometry
        got = masks.sees_a_key(jnp.asarray(mask), 40, window=window, is_causal=causal)
        np.testing.assert_array_equal(got, full.any(-1))


def test_window_counts_both_ends():
    visible = masks.band(300, 300, 128).sum(axis=-1)
    assert [int(visible[i]) for i in (0, 150, 299)] == [129, 257, 129]  # the released model's
