"""The MTP block as one object, and every source it can be opened from."""
