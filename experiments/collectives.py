"""Does a step of flow matching move between devices what FSDP must move, and nothing else?

    python -m experiments.collectives --preset turbo --text qwen3_embedding_0p6b --mesh fsdp=8

The step is compiled for simulated devices at its full size, from shapes alone: no parameter is
made. Its collectives are read from the compiled program (training/collectives.py), and their bytes
compared with what the parameters' placement makes necessary: a gather for each pass through a layer
and a scattered gradient. The processor's compiler decides here; those for GPU and TPU share its
partitioner, which places the collectives, and differ in how they merge and overlap them.
"""

import argparse
import functools
from collections.abc import Sequence

import jax
import numpy as np

from acestep_jax.data.batch import Batch
from acestep_jax.nn.model import Networks
from acestep_jax.training import collectives, models
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training.collectives import Collective
from acestep_jax.training.config import Mesh, Model
from acestep_jax.training.recipes.dit import TrainDiT
from acestep_jax.typing import Params
from train import dit


def batch_shapes(networks: Networks, size: int, frames: int, words: int) -> Batch:
    """Gives the shapes of a batch with prompts and lyrics of `words` tokens each."""
    config = networks.config

    def shape(dtype: type, *rest: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *rest), dtype)

    return Batch(
        latents=shape(np.float32, frames, config.audio_acoustic_hidden_dim),
        frame_mask=shape(bool, frames),
        source_latents=shape(np.float32, frames, config.audio_acoustic_hidden_dim),
        edit_mask=shape(np.float32, frames),
        text_tokens=shape(np.int32, words),
        text_mask=shape(bool, words),
        lyric_tokens=shape(np.int32, words),
        lyric_mask=shape(bool, words),
        timbre_latents=shape(np.float32, config.timbre_fix_frame, config.timbre_hidden_dim),
        is_cover=shape(bool),
    )


def moved(
    config: TrainDiT, networks: Networks, mesh: jax.sharding.Mesh, batch: Batch
) -> list[Collective]:
    """Compiles a train step of train/dit.py on a mesh, from shapes, and reads its collectives."""
    trained, frozen = models.split(models.shapes(networks), config.trained)
    state = jax.eval_shape(functools.partial(dit.make_state, config), trained)
    places = mesh_lib.state_shardings(state, mesh)
    songs = jax.tree.map(lambda _: mesh_lib.batch_sharding(mesh), batch)
    arguments = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        (state, frozen, batch),
        (places, mesh_lib.parameter_shardings(frozen, mesh), songs),
    )
    with jax.set_mesh(mesh):
        step = jax.jit(dit.make_train_step(dit.Setting(config, networks, None), trained, places))
        return collectives.read(step.lower(*arguments).compile().as_text())


def wanted(config: TrainDiT, networks: Networks, mesh: jax.sharding.Mesh) -> float:
    """Computes the bytes that each device must receive in such a step.

    Without those of the embedding of t - r, which is 0 for the whole batch: a single row travels
    there and not the kernels; and of the embedding table, of which only the rows looked up do.
    """
    trained, frozen = models.split(models.shapes(networks), config.trained)
    kept = {name: part for name, part in trained["dit"].items() if name != "time_embed_r"}
    text = {"layers": frozen["text_encoder"]["layers"]}

    def must(params: Params, *, trained: bool = True) -> float:
        places = mesh_lib.parameter_shardings(params, mesh)
        return collectives.fsdp_bytes(params, places, trained=trained)

    return must({**trained, "dit": kept}) + must(text, trained=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the bytes by kind, their sum, and what would do."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="nano", help="of nn.config.MODELS")
    parser.add_argument("--text", default="nano", help="of nn.config.TEXT_ENCODERS")
    parser.add_argument("--mesh", default="fsdp=8", help="such as data=2,fsdp=4")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--words", type=int, default=256)
    options = parser.parse_args(arguments)
    jax.config.update("jax_num_cpu_devices", options.devices)
    axes = dict(part.split("=") for part in options.mesh.split(","))
    mesh = mesh_lib.make_mesh(Mesh(**{axis: int(size) for axis, size in axes.items()}))
    model = Model(preset=options.preset, text_preset=options.text, attention="portable")
    networks = models.build(model)
    config = TrainDiT(name="collectives", model=model)
    batch = batch_shapes(networks, options.batch, options.frames, options.words)
    found = moved(config, networks, mesh, batch)
    for kind, size in sorted(collectives.by_kind(found).items()):
        print(f"{kind:20} {size / 2**20:12.2f} MiB")
    total, needed = sum(c.received for c in found), wanted(config, networks, mesh)
    print(
        f"moved {total / 2**20:.2f} MiB, FSDP must move {needed / 2**20:.2f}: {total / needed:.3f}"
    )


if __name__ == "__main__":
    main()
