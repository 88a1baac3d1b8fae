"""A whole run in miniature, for tests that kill it: a two-layer net that learns a sine.

    python toy_run.py WORKDIR [--stop-at STEP KIND] [--process INDEX COUNT PORT]

KIND is what happens in the save after STEP steps: "kill" before its rename, "full" disk, or
"sigterm" in the step itself; with several processes, to the first. Prints the digest of the final
state.
"""

import dataclasses
import functools
import hashlib
import os
import resource
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from acestep_jax.training import checksums, cli, loop, optim, processes
from acestep_jax.training import config as config_lib
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(config_lib.Run):
    """Fits sin(x) with a tanh network."""

    name: str = "toy"
    width: int = 64  # hidden channels
    noise: float = 0.1  # added to the inputs
    blow_up_at: int = -1  # step whose batch holds an infinite target
    net: config_lib.Optimizer = config_lib.Optimizer(
        peak_lr=1e-2, warmup_steps=3, schedule="cosine", ema_decay=0.9
    )


class Sines:
    """Batch i depends on i alone."""

    def __init__(self, config, mesh):
        self.config, self.mesh, self.index = config, mesh, 0

    def get_state(self):
        return {"index": self.index}

    def set_state(self, state):
        self.index = state["index"]

    def __next__(self):
        size = (self.config.data.batch_size, 16)
        x = np.random.default_rng(self.index).normal(size=size).astype(np.float32)
        y = np.sin(x)
        if self.index == self.config.blow_up_at:
            y[0, 0] = np.inf
        self.index += 1
        share = size[0] // jax.process_count()
        own = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        x, y = x[own], y[own]
        return mesh_lib.place_batch({"x": x, "y": y}, self.mesh)


def init_params(key, width):
    up_key, down_key = jax.random.split(key)
    return {
        "up_proj": {
            "kernel": 0.3 * jax.random.normal(up_key, (16, width)),
            "bias": jnp.zeros((width,)),
        },
        "down_proj": {"kernel": 0.3 * jax.random.normal(down_key, (width, 16))},
    }


def apply(params, x):
    hidden = jnp.tanh(x @ params["up_proj"]["kernel"] + params["up_proj"]["bias"][None])
    return hidden @ params["down_proj"]["kernel"]


def make_init(config):
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), config.width))
    optimizer = optim.make_optimizer(config.net, config.num_steps, shapes)

    def init():
        key = jax.random.key(config.seed)
        params = {"net": init_params(key, config.width)}
        return state_lib.init_state(key, params, {"net": optimizer}, {"net": config.net})

    return init, optimizer


def make_step(config, optimizer):
    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        noise = config.noise * jax.random.normal(state_lib.step_key(state), batch["x"].shape)

        def loss(params):
            error = jnp.mean((apply(params, batch["x"] + noise) - batch["y"]) ** 2)
            size = jnp.mean(params["up_proj"]["kernel"] ** 2)
            return error, {"loss/fit": error, "size": size}

        state, metrics = state_lib.value_and_update(state, "net", loss, optimizer, config.net)
        return state_lib.advance(state), metrics

    return step


def digest(state):
    data = jax.tree.map(
        lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x,
        state,
    )
    if jax.process_count() > 1:
        data = multihost_utils.process_allgather(data, tiled=True)
    return hashlib.sha256(
        b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(data))
    ).hexdigest()


def train(config, at_step=lambda step, run: None):
    mesh = mesh_lib.make_mesh(config.mesh)
    init, optimizer = make_init(config)
    step_fn = make_step(config, optimizer)
    batches = Sines(config, mesh)
    shardings = functools.partial(mesh_lib.state_shardings, mesh=mesh)
    with loop.Loop(config) as run:
        state, start = run.restore_or_init(init, shardings, batches)
        for step in run.steps(start):
            at_step(step + 1, run)
            state, metrics = step_fn(state, next(batches))
            run.end_step(step, state, metrics, batches)
    return state, start


def fail_at(stop_step, kind):
    def at_step(step, run):
        if step != stop_step:
            return
        run.checkpoints.wait()
        if kind == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        elif kind == "full":  # no file may grow beyond 4 KB from here on
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        elif kind == "kill":
            checksums.write = lambda folder: os.kill(os.getpid(), signal.SIGKILL)

    return at_step


def join(place):
    """Becomes one of several processes with two devices each, as the command line does."""
    jax.config.update("jax_num_cpu_devices", 2)
    if place is None:  # the launcher knows
        return processes.join()
    index, count, port = map(int, place)
    processes.join(coordinator=f"127.0.0.1:{port}", num_processes=count, process_id=index)


def values_after(arguments, option, count):
    if option not in arguments:
        return None
    first = arguments.index(option) + 1
    return arguments[first : first + count]


def main(arguments):
    hook = lambda *_: None  # noqa: E731
    place = values_after(arguments, "--process", 3)
    if place or processes.launched_together(os.environ):
        join(place)
    stop = values_after(arguments, "--stop-at", 2)
    if stop and jax.process_index() == 0:
        hook = fail_at(int(stop[0]), stop[1])
    config = Toy(
        workdir=arguments[0],
        num_steps=12,
        save_every=3,
        log_every=1,
        mesh=config_lib.Mesh(data=2, fsdp=2),
        data=config_lib.Data(batch_size=8),
    )
    with cli.plain_errors():
        cli.prepare_workdir(config)
        state, start = train(config, hook)
    print(f"from {start}: {digest(state)}")


if __name__ == "__main__":
    main(sys.argv[1:])
