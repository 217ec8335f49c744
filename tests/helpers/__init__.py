"""What several test files share: small networks, tokenizers, runs and servers."""
