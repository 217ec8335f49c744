"""Text on its way into training: corpus building, token shards, blank infilling, conversations and the mixture of them
all."""
