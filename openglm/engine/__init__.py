"""Inference: many requests over one model. Token ids in, token ids out."""
