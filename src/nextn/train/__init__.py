"""Training a draft for a model nobody published one for: text and states, the fit, the judgement."""
