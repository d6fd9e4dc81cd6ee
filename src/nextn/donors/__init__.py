"""Where a block comes from: the donor that was named, or the one that is found."""
