"""Everything that changes a disk: plans, their execution, and what makes it durable."""
