"""A person's look at answers: what to look at first, the local page, labels, and what they say about probabilities."""
