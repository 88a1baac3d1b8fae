"""What a trained listener tells of codes is what Bayes' rule tells of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from acestep_jax.nn.config import Qwen3Config
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.ops import pmi
from acestep_jax.tasks.planning.listener import Listener, Sheet

CLASSES, CODES, LENGTH = 2, 3, 6
BEGIN, ASK, NONE, FIRST = 0, 1, 2, 3  # then classes, then codes
SIZES = Qwen3Config(
    vocab_size=FIRST + CLASSES + CODES,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=16,
)
PRIOR = np.array([0.6, 0.4])
CHAINS = np.random.default_rng(0).dirichlet(np.full(CODES, 0.8), (CLASSES, CODES))
STEPS, BATCH = 1000, 128


def songs(key, count):
    """Classes and codes: a Markov chain for each class, which starts anywhere."""
    kind_key, first_key, key = jax.random.split(key, 3)
    kinds = jax.random.categorical(kind_key, jnp.log(jnp.asarray(PRIOR)), shape=(count,))
    codes = [jax.random.randint(first_key, (count,), 0, CODES)]
    for step in jax.random.split(key, LENGTH - 1):
        codes.append(jax.random.categorical(step, jnp.log(jnp.asarray(CHAINS))[kinds, codes[-1]]))
    return kinds, jnp.stack(codes, 1)


def bayes(codes):
    """log p(class | codes), [N, CLASSES]."""
    steps = np.log(CHAINS[:, codes[:, :-1], codes[:, 1:]]).sum(-1).T + np.log(PRIOR)
    return steps - np.log(np.exp(steps).sum(1, keepdims=True))


@pytest.mark.timeout(900)
@pytest.mark.slow  # trains a transformer
def test_information_by_a_trained_listener_is_that_of_bayes_rule():
    # D7
    module = Qwen3(SIZES)
    optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, STEPS))
    deaf = (jnp.arange(BATCH) < BATCH // 8)[:, None]  # one in eight hears nothing

    def loss(params, kinds, codes):
        ends = jnp.full((BATCH, 1), ASK)
        rows = jnp.concatenate([ends * 0 + BEGIN, FIRST + CLASSES + codes, ends], axis=1)
        rows = rows.at[:, :2].set(jnp.where(deaf, jnp.array([[NONE, ASK]]), rows[:, :2]))
        hidden = module.apply({"params": params}, rows)
        own = jnp.where(deaf, hidden[:, 1], hidden[:, -1])
        logits = module.apply({"params": params}, own[:, None], method="logits")[:, 0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, FIRST + kinds).mean()

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, *songs(key, BATCH)), state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train(key):
        params = module.init(key, jnp.zeros((1, 2), jnp.int32))["params"]
        keys = jax.random.split(key, STEPS)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    params = train(jax.random.key(0))
    kinds, codes = map(np.asarray, jax.jit(songs, static_argnums=1)(jax.random.key(1), 2000))
    listener = Listener(module, (BEGIN,), (ASK,), (NONE, ASK))
    sheet = Sheet(FIRST + kinds[:, None], np.full((2000, 1), 7))
    real = np.ones(codes.shape, bool)
    heard = jax.jit(listener.hear)(params, FIRST + CLASSES + codes, real, sheet)
    unheard = jax.jit(listener.guess)(params, sheet)
    found = np.asarray(pmi.information(heard, unheard))[:, 6]
    true = bayes(codes)[np.arange(2000), kinds] - np.log(PRIOR[kinds])
    assert abs(found.mean() - true.mean()) < 0.02  # nats: the mutual information of class and codes
    assert np.corrcoef(found, true)[0, 1] > 0.95
