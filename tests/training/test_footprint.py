"""The memory that a traced program keeps alive, on programs whose arrays can be counted."""

import jax
import jax.numpy as jnp

from acestep_jax.training import footprint
from acestep_jax.training.footprint import Shares

ALONE = Shares(batch=7, devices=1, parameters={})
SQUARE = jax.ShapeDtypeStruct((64, 64), jnp.float32)
SIZE = 64 * 64 * 4


def _peak(function, *arguments, shares=ALONE):
    return footprint.peak(jax.make_jaxpr(function)(*arguments).jaxpr, shares)


def test_products_that_follow_each_other_need_two_places():
    def chain(x, w):
        for _ in range(5):
            x = x @ w
        return x

    assert _peak(chain, SQUARE, SQUARE) == 2 * SIZE  # what is read, and what is made of it


def test_products_that_are_all_read_at_the_end_need_a_place_each():
    def fan(x, w):
        parts = [x @ (w + i) for i in range(4)]
        return jnp.concatenate(parts)

    # four products, their join, and the last shifted factor is gone by then
    assert _peak(fan, SQUARE, SQUARE) == 8 * SIZE


def test_arithmetic_is_computed_where_it_is_read():
    def gentle(x):
        return jnp.sum(jnp.tanh(jnp.exp(x) * 2 + 1))

    assert _peak(gentle, SQUARE) < SIZE


def test_a_loop_holds_its_stack_and_one_turn_of_its_body():
    def loop(x, w):
        def body(carry, _):
            carry = carry @ w @ w
            return carry, carry

        return jax.lax.scan(body, x, None, length=10)

    found = _peak(loop, SQUARE, SQUARE)
    assert 11 * SIZE <= found <= 14 * SIZE  # ten states, the carry, and at most three in a turn


def test_a_loop_that_fills_an_array_does_so_in_place():
    def fill(x):
        def body(i, carry):
            x, kept = carry
            return x @ x, kept.at[i].set(x)

        return jax.lax.fori_loop(0, 10, body, (x, jnp.zeros((10, 64, 64))))

    found = _peak(fill, SQUARE)
    assert 11 * SIZE <= found <= 23 * SIZE  # zeros, and the same array as a result; no third copy


def test_what_devices_share_counts_by_their_share():
    def product(x, w):
        return x @ w, w @ w

    batch = jax.ShapeDtypeStruct((8, 64), jnp.float32)
    shares = Shares(batch=8, devices=4, parameters={(64, 64): 2})
    found = _peak(product, batch, SQUARE, shares=shares)
    assert found == 8 * 64 * 4 // 4 + SIZE // 2


def test_the_share_of_a_stacked_parameter_is_read_off_its_place(devices):
    mesh = jax.make_mesh((4,), ("fsdp",), devices=devices[:4])
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
    leaf = jax.ShapeDtypeStruct((3, 8), jnp.float32)
    assert footprint.parameter_shares({"w": leaf}, {"w": place}) == {(3, 8): 4}


def test_a_layer_of_a_stack_has_its_share_too(devices):
    mesh = jax.make_mesh((4,), ("fsdp",), devices=devices[:4])
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp", None))
    leaf = jax.ShapeDtypeStruct((3, 8, 5), jnp.float32)
    found = footprint.parameter_shares({"w": leaf}, {"w": place})
    assert found == {(3, 8, 5): 4, (8, 5): 4}


def test_a_turn_of_layers_gathers_its_parameters_whole():
    def layers(x, stack):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)[0]

    batch = jax.ShapeDtypeStruct((8, 64), jnp.float32)
    stack = jax.ShapeDtypeStruct((3, 64, 64), jnp.float32)
    alone = _peak(layers, batch, stack, shares=Shares(batch=8, devices=4, parameters={}))
    shares = Shares(batch=8, devices=4, parameters={(3, 64, 64): 4, (64, 64): 4})
    assert _peak(layers, batch, stack, shares=shares) == alone + SIZE


def test_an_array_seen_in_another_shape_has_one_place():
    def seen(x, w):
        return (x @ w).reshape(32, 128).reshape(16, 256) @ jnp.ones((256, 1))

    once = _peak(lambda x, w: (x @ w) @ jnp.ones((64, 1)), SQUARE, SQUARE)
    assert abs(_peak(seen, SQUARE, SQUARE) - once) < SIZE // 8


def test_what_is_only_called_is_opened():
    @jax.jit
    def gentle(x):
        return jnp.where(x > 0, x, 0.0)

    assert _peak(lambda x, w: jnp.sum(gentle(x) + gentle(w)), SQUARE, SQUARE) < SIZE


def test_a_loop_takes_over_what_it_begins_with():
    def repeat(x):
        first = x @ x
        return jax.lax.fori_loop(0, 10, lambda _, y: y + 1, first)

    assert _peak(repeat, SQUARE) < 2.5 * SIZE  # the carry, and what a turn makes of it


def test_what_is_computed_in_its_reader_keeps_its_source_alive():
    def soften(x):
        logits = x @ x
        return jax.nn.softmax(logits) @ x

    assert _peak(soften, SQUARE) >= 2 * SIZE  # logits are read until their exponentials are made


def test_what_a_loop_stacks_for_the_loop_that_goes_back_is_held_in_every_layout():
    def slopes(x, w):
        def body(carry, _):
            return jnp.square(carry @ w), None

        return jax.grad(lambda x: jnp.sum(jax.lax.scan(body, x, None, length=10)[0]))(x)

    once, twice = (
        _peak(slopes, SQUARE, SQUARE, shares=Shares(7, 1, {}, layouts=n)) for n in (1, 2)
    )
    assert twice - once == 10 * SIZE  # ten products, whose doubles are the slopes of squares


def test_what_a_loop_stacks_for_others_is_held_once():
    def forwards(x, w):
        def body(carry, _):
            carry = carry @ w
            return carry, carry

        states = jax.lax.scan(body, x, None, length=10)[1]
        return jax.lax.scan(lambda total, state: (total + state @ w, None), x, states)[0]

    once, twice = (
        _peak(forwards, SQUARE, SQUARE, shares=Shares(7, 1, {}, layouts=n)) for n in (1, 2)
    )
    assert twice == once
