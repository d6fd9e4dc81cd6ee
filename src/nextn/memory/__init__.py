"""What a setup costs before it is made: disk, weights, kv_cache, recurrent state, compute buffers, by device."""
