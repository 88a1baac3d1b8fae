"""Which heads listen to lyrics, whether the alignment score tells the truth, how fast it warps."""
