"""Teaches the released 8-step model a style from a handful of songs, as its authors' trainer does.

Method:   train/lora.py with the release's numbers: rank 8, alpha 16, dropout 0.1, learning rate
          1e-4, four songs an update, times from the eight that the model is sampled at (shift 3),
          conditions never dropped, since it is never guided. The authors report 8 songs in an hour
          of an RTX 3090, and advise 500 passes over 100 songs, 800 over 10 to 20.
          To train on the base model instead and use the adapter on turbo: model.weights=
          ACE-Step/acestep-v15-base, time_law=max2, condition_dropout=0.15.
Data:     your songs: python -m acestep_jax.data.prepare --source my_songs --out data/shards/style
          with the released autoencoder.
Command:  python -m train.lora --config configs/turbo/lora.py
Needs:    the DiT in bfloat16 (3.2 GB), other networks (2.8 GB), adapters with optimizer (0.1 GB),
          activations of one layer at a time.
Cost:     not run yet.     Expect:  not known yet.
"""

from acestep_jax.training.config import Data, Mesh, Model, Optimizer, Samples
from acestep_jax.training.recipes.lora import TrainLoRA, toy_adapters


def get_config(quick: bool = False) -> TrainLoRA:
    """Gives the run; `quick` puts the nano family with random weights in its place."""
    config = TrainLoRA(
        name="turbo_lora",
        num_steps=1600,  # 800 passes over 8 songs
        mesh=Mesh(data=-1),
        model=Model(
            preset="turbo",
            text_preset="qwen3_embedding_0p6b",
            weights="ACE-Step/Ace-Step1.5/acestep-v15-turbo",
            text_weights="ACE-Step/Ace-Step1.5/Qwen3-Embedding-0.6B",
            vae_weights="ACE-Step/Ace-Step1.5/vae",
            dtype="bfloat16",
            frozen_dtype="bfloat16",
            remat=True,
        ),
        optimizer=Optimizer(
            peak_lr=1e-4, warmup_steps=100, schedule="cosine", final_lr_ratio=0.01, b2=0.999
        ),
        time_law="turbo",
        condition_dropout=0.0,
        data=Data(
            shards="data/shards/style",
            batch_size=4,
            num_frames=6000,  # 240 s, to which the release's trainer cuts songs
            text_tokens=256,
            lyric_tokens=512,
            timbre_frames=750,
        ),
        samples=Samples(num_steps=8, shift=3.0, guidance_scale=1.0),
        log_every=10,
        save_every=200,
    )
    return toy_adapters(config) if quick else config
