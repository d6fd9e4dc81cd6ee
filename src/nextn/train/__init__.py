"""Training drafts: what the trunk writes and its states, the fit, and the judgement."""
