"""What the server counts, in Prometheus' form. A registry of its own, so that two servers in one process do not mix."""

from __future__ import annotations

from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_TOKENS = (16, 64, 256, 1024, 4096, 16384, 65536)


class Metrics:
    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self.http = Counter(
            "glm_http_requests", "HTTP requests by method and status", ["method", "status"], registry=registry
        )
        self.rejected = Counter("glm_rejected", "Requests refused because the queue was full", registry=registry)
        self.finished = Counter("glm_finished", "Answers by how they ended", ["reason"], registry=registry)
        self.prompt_tokens = Counter("glm_prompt_tokens", "Tokens of prompts", registry=registry)
        self.cached_tokens = Counter(
            "glm_cached_tokens", "Tokens of prompts found in the prefix cache", registry=registry
        )
        self.completion_tokens = Counter("glm_completion_tokens", "Tokens of answers", registry=registry)
        self.feedback = Counter("glm_feedback", "Ratings, edits and retries kept", registry=registry)
        self.request_seconds = Histogram(
            "glm_request_seconds", "From the request to the end of its answer", buckets=_SECONDS, registry=registry
        )
        self.first_token_seconds = Histogram(
            "glm_first_token_seconds",
            "From the request to its first token, the queue included",
            buckets=_SECONDS,
            registry=registry,
        )
        self.token_seconds = Histogram(
            "glm_token_seconds", "Between two tokens of an answer", buckets=_SECONDS, registry=registry
        )
        self.prompt_length = Histogram("glm_prompt_length", "Tokens of a prompt", buckets=_TOKENS, registry=registry)
        self.answer_length = Histogram("glm_answer_length", "Tokens of an answer", buckets=_TOKENS, registry=registry)
        self.asked_length = Histogram(
            "glm_asked_length", "Tokens that an answer was allowed", buckets=_TOKENS, registry=registry
        )
        self.step_seconds = Histogram(
            "glm_step_seconds", "One pass of the network", buckets=_SECONDS, registry=registry
        )
        self.step_tokens = Counter("glm_step_tokens", "New tokens of answers, over all passes", registry=registry)
        self._add_gauges()

    def _add_gauges(self) -> None:
        """What the engine says of itself at the moment it is asked."""
        gauges = {
            "glm_running": ("Answers being computed", lambda: len(self.engine.scheduler.running)),
            "glm_waiting": ("Requests that wait for their turn", lambda: len(self.engine.scheduler.waiting)),
            "glm_slots": ("Answers that can be computed at once", lambda: self.engine.config.max_sequences),
            "glm_cache_blocks": ("Blocks of keys and values", lambda: self.engine.pool.blocks),
            "glm_cache_blocks_free": (
                "Blocks of keys and values that no answer holds",
                lambda: self.engine.pool.available,
            ),
            "glm_block_tokens": ("Tokens in a block", lambda: self.engine.config.block_size),
            "glm_context_tokens": ("Longest prompt and answer together", lambda: self.engine.context),
        }
        for name, (text, read) in gauges.items():
            Gauge(name, text, registry=self.registry).set_function(read)

    def watch(self, engine: Any) -> None:
        """From now on the gauges are this engine's."""
        self.engine = engine

    def step(self, seconds: float, tokens: int) -> None:
        self.step_seconds.observe(seconds)
        self.step_tokens.inc(tokens)

    def token(self, seconds: float, first: bool) -> None:
        (self.first_token_seconds if first else self.token_seconds).observe(seconds)

    def result(self, result: Any, seconds: float) -> None:
        self.finished.labels(result.finish_reason).inc()
        self.prompt_tokens.inc(result.prompt_tokens)
        self.cached_tokens.inc(result.cached_tokens)
        self.completion_tokens.inc(len(result.ids))
        self.prompt_length.observe(result.prompt_tokens)
        self.answer_length.observe(len(result.ids))
        self.request_seconds.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)
