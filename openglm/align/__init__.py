"""From base model to assistant: reward models, preferences and reinforcement learning on the one training loop."""
