"""What answers: the model with one clip or several, its token budget, audits."""
