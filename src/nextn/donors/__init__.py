"""Where a block comes from: a donor that is named, or one that is found."""
