"""What every text that is encoded must be."""

from typing import Any

from openglm.config import require


def require_text(value: Any, where: str) -> None:
    """Raise ValueError, naming `where`, unless `value` is a str that UTF-8 can hold, i.e. one without lone
    surrogates."""
    require(isinstance(value, str), where, type(value).__name__, "must be text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} = {value[error.start]!r} at character {error.start}: half of a surrogate pair is no text; "
            "decode the file as UTF-8"
        ) from None
