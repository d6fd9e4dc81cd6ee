"""The MTP block as one object, and everything it can be opened from."""
