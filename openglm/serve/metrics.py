"""What the server counts, in Prometheus' form. A registry of its own, so that two servers in one process do not mix."""

from __future__ import annotations

from functools import partial
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
        self.engine = engine  # of which the gauges tell
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        counter = partial(Counter, registry=registry)
        seconds = partial(Histogram, buckets=_SECONDS, registry=registry)
        tokens = partial(Histogram, buckets=_TOKENS, registry=registry)
        self.http = counter("glm_http_requests", "HTTP requests by method and status", ["method", "status"])
        self.rejected = counter("glm_rejected", "Requests refused because the queue was full")
        self.finished = counter("glm_finished", "Answers by how they ended", ["reason"])
        self.prompt_tokens = counter("glm_prompt_tokens", "Tokens of prompts")
        self.cached_tokens = counter("glm_cached_tokens", "Tokens of prompts found in the prefix cache")
        self.completion_tokens = counter("glm_completion_tokens", "Tokens of answers")
        self.feedback = counter("glm_feedback", "Ratings, edits and retries kept")
        self.request = seconds("glm_request_seconds", "From the request to the end of its answer")
        self.first_token = seconds("glm_first_token_seconds", "From the request to its first token, the queue included")
        self.token = seconds("glm_token_seconds", "Between two tokens of an answer, in the mean of each answer")
        self.step = seconds("glm_step_seconds", "One pass of the network")
        self.prompt_length = tokens("glm_prompt_length", "Tokens of a prompt")
        self.answer_length = tokens("glm_answer_length", "Tokens of an answer")
        self.asked_length = tokens("glm_asked_length", "Tokens that an answer was allowed")
        self.step_tokens = counter("glm_step_tokens", "New tokens of answers, over all passes")
        self._add_gauges()

    def _add_gauges(self) -> None:
        """What the engine says of itself at the moment it is asked."""
        for name, text, read in (
            ("running", "Answers being computed", lambda engine: len(engine.scheduler.running)),
            ("waiting", "Requests that wait for their turn", lambda engine: len(engine.scheduler.waiting)),
            ("slots", "Answers that can be computed at once", lambda engine: engine.config.max_sequences),
            ("cache_blocks", "Blocks of keys and values", lambda engine: engine.pool.blocks),
            ("cache_blocks_free", "Blocks that no answer holds", lambda engine: engine.pool.available),
            ("block_tokens", "Tokens in a block", lambda engine: engine.config.block_size),
            ("context_tokens", "Longest prompt and answer together", lambda engine: engine.context),
        ):
            Gauge(f"glm_{name}", text, registry=self.registry).set_function(lambda read=read: read(self.engine))

    def result(self, result: Any, seconds: float, after_first: float) -> None:
        """after_first: seconds from its first token to its last."""
        self.finished.labels(result.finish_reason).inc()
        self.prompt_tokens.inc(result.prompt_tokens)
        self.cached_tokens.inc(result.cached_tokens)
        self.completion_tokens.inc(len(result.ids))
        self.prompt_length.observe(result.prompt_tokens)
        self.answer_length.observe(len(result.ids))
        self.request.observe(seconds)
        if len(result.ids) > 1:
            self.token.observe(after_first / (len(result.ids) - 1))

    def text(self) -> bytes:
        return generate_latest(self.registry)
