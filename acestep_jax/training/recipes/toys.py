"""What the quick forms of recipes share: networks and songs so small that they train anywhere.

A quick form keeps its recipe's method. Everything that costs time and proves nothing is taken from
here, so that quick forms of one method compile the same programs.
"""

from acestep_jax.training.config import Data, Model, Optimizer

MODEL = Model(preset="toy", text_preset="toy")
"""Random networks with every kind of layer once."""
DATA = Data(shards="synthetic", batch_size=2, num_frames=16, timbre_frames=16)
"""Songs that are made up on the spot."""
OPTIMIZER = Optimizer(ema_decay=0.9)
"""AdamW and an average. (Muon's programs take a third longer to compile; one recipe keeps it.)"""
