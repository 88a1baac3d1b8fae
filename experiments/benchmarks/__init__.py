"""What `experiments.bench` is made of: sizes, our side, the other side, clocks, counts."""
