"""Training a draft: the trunk writes text, a draft is fitted to its states, and an engine judges what came of it."""
