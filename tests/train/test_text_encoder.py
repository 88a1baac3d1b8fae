"""Teaching a text encoder to read: every term against its closed form, and what must not count."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.data import facts
from acestep_jax.nn.config import TEXT_ENCODERS
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training.config import Mesh
from configs.nano import text_encoder as recipe
from train import text_encoder

SIZES = TEXT_ENCODERS["toy"]
WIDTH = 0.015


def make_batch(bpm=(60, 120), key=(0, 13), metre=(2, 3)):
    rng = np.random.default_rng(0)
    return facts.FactBatch(
        tokens=jnp.asarray(rng.integers(0, SIZES.vocab_size, (2, 12)), jnp.int32),
        mask=jnp.arange(12)[None] < jnp.array([[12], [7]]),
        bpm=jnp.array(bpm),
        key=jnp.array(key),
        metre=jnp.array(metre),
        ends=jnp.array([[3, 6, 9], [2, 4, 5]]),
    )


def make_trained(module):
    key = jax.random.key(0)
    params = module.init(key, jnp.zeros((1, 2), jnp.int32))["params"]
    heads = text_encoder.init_heads(key, SIZES.hidden_size, SIZES.vocab_size)
    return {"encoder": params, "heads": heads}


def test_the_right_tempo_is_a_bell_of_its_logarithm():
    target = text_encoder.tempo_target(jnp.array([100]), 0.02)[0]
    bpm = np.arange(30, 301)
    assert bpm[int(jnp.argmax(target))] == 100
    np.testing.assert_allclose(jnp.sum(target), 1.0, rtol=1e-6)
    log_ratio = np.log(bpm / 100)
    spread = np.sqrt(np.sum(np.asarray(target) * log_ratio**2))
    np.testing.assert_allclose(spread, 0.02, rtol=0.01)


def test_words_are_those_of_the_prompt_and_padding_is_none():
    batch = make_batch()
    found = text_encoder.words_target(batch, SIZES.vocab_size)
    for row, tokens, mask in zip(found, batch.tokens, batch.mask, strict=True):
        assert set(np.flatnonzero(row)) == set(np.asarray(tokens)[np.asarray(mask)])


def test_losses_of_answers_that_say_nothing_are_those_of_guessing():
    batch = make_batch()
    sizes = {"tempo": 271, "key": 24, "metre": 4, "words": SIZES.vocab_size}
    silent = {name: jnp.zeros((2, size)) for name, size in sizes.items()}
    found = text_encoder.fact_losses(silent, batch, WIDTH)
    expected = {"tempo": np.log(271), "key": np.log(24), "metre": np.log(4)}
    for name, value in (expected | {"words": SIZES.vocab_size * np.log(2)}).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


def test_the_best_answer_has_the_entropy_of_the_target_as_its_loss():
    batch = make_batch()
    target = text_encoder.tempo_target(batch.bpm, WIDTH)
    sure = {
        "tempo": jnp.log(target + 1e-30),
        "key": 50.0 * jax.nn.one_hot(batch.key, 24),
        "metre": 50.0 * jax.nn.one_hot(batch.metre, 4),
        "words": 50.0 * (2 * text_encoder.words_target(batch, SIZES.vocab_size) - 1),
    }
    found = text_encoder.fact_losses(sure, batch, WIDTH)
    entropy = -np.sum(np.asarray(target) * np.log(np.asarray(target) + 1e-30), axis=-1).mean()
    np.testing.assert_allclose(found["tempo"], entropy, rtol=1e-5)
    for name in ("key", "metre", "words"):
        np.testing.assert_allclose(found[name], 0.0, atol=1e-6)
    assert all(float(share) == 1.0 for share in text_encoder.hits(sure, batch).values())


def test_facts_that_are_not_told_move_nothing():
    config = dataclasses.replace(recipe.get_config(quick=True), word_weight=0.0)
    module = Qwen3(SIZES)
    setting, trained = text_encoder.Setting(config, module), make_trained(module)
    untold = make_batch(*[(facts.UNTOLD, facts.UNTOLD)] * 3)
    loss = lambda p: text_encoder.reading_loss(p, setting, untold, jax.random.key(0))[0]  # noqa: E731
    gradients = jax.grad(loss)(trained)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_every_fact_is_read_where_its_line_ends_whatever_comes_behind_it():
    module = Qwen3(SIZES)
    trained, batch = make_trained(module), make_batch()
    first = text_encoder.read(module, trained, batch, batch.ends)
    for place, name in zip((2, 4, 5), text_encoder.FACTS, strict=True):
        for token, moved in ((place, True), (place + 1, False)):
            other = dataclasses.replace(batch, tokens=batch.tokens.at[1, token].set(5))
            gap = text_encoder.read(module, trained, other, other.ends)[name][1] - first[name][1]
            assert (np.abs(np.asarray(gap)).max() > 1e-3) == moved, (name, token)


def test_any_token_from_the_end_of_a_line_on_is_asked_and_each_as_often():
    batch = make_batch()
    draw = jax.vmap(lambda key: text_encoder.draw_places(key, batch))
    places = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    last = np.asarray(text_encoder.last_tokens(batch))[:, 0]
    np.testing.assert_array_equal(last, [11, 6])
    for item, fact in np.ndindex(2, 3):
        drawn, count = np.unique(places[:, item, fact], return_counts=True)
        first = int(batch.ends[item, fact])
        np.testing.assert_array_equal(drawn, np.arange(first, last[item] + 1))
        np.testing.assert_allclose(count / 4000, 1 / len(drawn), atol=0.04)


def test_a_fact_is_read_by_its_direction_alone():
    module = Qwen3(SIZES)
    trained, batch = make_trained(module), make_batch()
    steep = {name: jax.tree.map(lambda x: 7 * x, head) for name, head in trained["heads"].items()}
    first, other = (
        text_encoder.read(module, {**trained, "heads": heads}, batch, batch.ends)
        for heads in (trained["heads"], steep)
    )
    for name in text_encoder.FACTS:
        np.testing.assert_allclose(first[name], other[name], rtol=1e-4, atol=1e-4)
        assert np.abs(np.asarray(first[name])).max() <= text_encoder.SCALE


def test_words_are_read_from_the_last_token_whatever_the_padding():
    module = Qwen3(SIZES)
    trained, batch = make_trained(module), make_batch()
    cut = dataclasses.replace(batch, tokens=batch.tokens[:, :7], mask=batch.mask[:, :7])
    padded, alone = (text_encoder.read(module, trained, some, some.ends) for some in (batch, cut))
    np.testing.assert_allclose(padded["words"][1], alone["words"][1], rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_eight_devices_train_as_one(devices):
    config = dataclasses.replace(recipe.get_config(quick=True), mesh=Mesh())
    module = Qwen3(SIZES)
    setting, trained = text_encoder.Setting(config, module), make_trained(module)
    batch = jax.tree.map(lambda x: jnp.concatenate([x] * 4), make_batch())
    numbers = []
    for mesh in (mesh_lib.make_mesh(Mesh()), mesh_lib.make_mesh(Mesh(fsdp=4, tensor=2), devices)):
        with jax.set_mesh(mesh):
            state = text_encoder.make_state(config, trained)
            places = mesh_lib.state_shardings(state, mesh)
            step = text_encoder.make_train_step(setting, trained, places)
            placed = mesh_lib.place_batch(batch, mesh)
            state, metrics = step(mesh_lib.place(state, places), placed)
            heads = state.params["reader"]["heads"]
            numbers.append([float(metrics["loss"]), float(jnp.sum(heads["key"]["kernel"] ** 2))])
    np.testing.assert_allclose(*numbers, rtol=1e-5)
