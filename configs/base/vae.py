"""Trains the full-size 48 kHz stereo autoencoder (169 M parameters) by the recipe of the release.

Method:   train/vae.py: reconstruction alone, then against the discriminator, then for the last
          sixth without KL and against a stronger adversary. Phases, steps and Muon are what is
          reported of ACE-Step 1.5; weights, windows and rates are the defaults of
          stable-audio-tools (Evans et al. 2024, arXiv:2404.10301), which the release was most
          likely trained with. Muon's own rate is our choice: nobody published it.
Command:  python -m train.vae --config configs/base/vae.py --set mesh.data=-1
Needs:    parameters, gradients, two moments and an average, 16-20 bytes a parameter: 3.4 GB on each
          device, and the activations of its clips. The test suite traces every step at full size.
Cost:     reported: 600,000 steps on 120 A100. Not run here: no device of that size was at hand.
Expect:   not known yet.
"""

from acestep_jax.nn.config import VAES
from acestep_jax.training.config import Data, Mesh, Optimizer
from acestep_jax.training.recipes.vae import TrainVAE, VAEPhase
from configs.nano.vae import quick_form


def get_config(quick: bool = False) -> TrainVAE:
    """Describes the run; `quick` gives its toy form."""
    config = TrainVAE(
        name="base_vae",
        vae=VAES["vae"],
        num_steps=610_000,
        mesh=Mesh(data=-1),
        dtype="bfloat16",
        remat=True,
        phases=(
            VAEPhase(num_steps=10_000, kl_weight=1e-4),
            VAEPhase(
                num_steps=500_000, kl_weight=1e-4, adversarial_weight=0.1, matching_weight=5.0
            ),
            VAEPhase(num_steps=100_000, kl_weight=0.0, adversarial_weight=0.5, matching_weight=5.0),
        ),
        data=Data(batch_size=240, num_frames=34),  # 65,280 samples; the release takes 65,536
        # The release adds the loss of sum and difference to half of left's and half of right's,
        # where we average the two pairs: twice our weights are its scale.
        convergence_weight=2.0,
        magnitude_weight=2.0,
        waveform_weight=0.0,
        floor=1e-5,  # the release's 1e-4 is for windows that are not normalised: 3 to 28 times ours
        a_weighting=True,
        generator=Optimizer(
            name="muon",
            peak_lr=1.5e-4,
            muon_lr_ratio=20.0,
            warmup_steps=1000,
            schedule="inverse",
            b1=0.8,
            b2=0.99,
            weight_decay=1e-3,
            clip_norm=0.0,
            ema_decay=0.9999,
        ),
        discriminator=Optimizer(
            peak_lr=3e-4,
            warmup_steps=1000,
            schedule="inverse",
            b1=0.8,
            b2=0.99,
            weight_decay=1e-3,
            clip_norm=0.0,
        ),
        save_every=5000,
        eval_every=10_000,
        keep_period=100_000,
    )
    return quick_form(config) if quick else config
