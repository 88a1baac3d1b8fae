"""From songs to batches: our own rendered songs, licensed recordings, shards, and the loader."""
