"""The error that all options share, and dataclasses from plain JSON or TOML values. Nothing here knows any option."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Config = TypeVar("Config")


@dataclass(frozen=True)
class Rule:
    """What the values of a field must be. It stands in the field's type, and `check_fields` holds values to it."""

    fits: Callable[[Any], bool]
    remedy: str


Count = Annotated[int, Rule(lambda value: value > 0, "must be a positive whole number")]
Whole = Annotated[int, Rule(lambda value: value >= 0, "must not be negative")]
Positive = Annotated[float, Rule(lambda value: value > 0, "must be positive")]
NotNegative = Annotated[float, Rule(lambda value: value >= 0, "must not be negative")]
Share = Annotated[float, Rule(lambda value: 0 <= value <= 1, "must lie between 0 and 1")]


def require(condition: bool, option: str, value: object, remedy: str) -> None:
    """Raise the one-line error that all of OpenGLM's options share. `remedy` says what would be accepted."""
    if not condition:
        raise ValueError(f"{shorten(option)} = {shown(value)}: {remedy}")


def shown(value: object) -> str:
    """A user's value as an error quotes it, of a few hundred characters at most."""
    try:
        return shorten(repr(value))
    except ValueError:  # Python writes no number of more than some thousand digits
        return f"a {type(value).__name__} too long to show"


def shorten(text: str, most: int = 300) -> str:
    """A text without its middle where it has more than `most` characters."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} ... {text[-most // 4 :]} ({len(text)} characters)"


def from_dict(cls: type[Config], values: dict[str, Any], where: str = "") -> Config:
    """Build a (nested) config from plain JSON or TOML values; an unknown or missing field is an error that names it."""
    assert dataclasses.is_dataclass(cls), cls
    hints, known = get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls)}
    for name in values:
        require(name in known, where + name, values[name], f"not an option; known: {', '.join(sorted(known))}")
    for name, f in known.items():
        optional = f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
        require(name in values or optional, where + name, None, "missing; it has no default")
    built = {}
    for name, value in values.items():
        hint = hints[name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            require(isinstance(value, dict), where + name, value, "must be a table of options")
            value = from_dict(hint, value, f"{where}{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        else:
            _check_type(hint, value, where + name)
        built[name] = value
    return cls(**built)


def _check_type(hint: object, value: object, option: str) -> None:
    if hint is bool:
        require(isinstance(value, bool), option, value, "must be true or false")
    elif hint is int:
        require(isinstance(value, int) and not isinstance(value, bool), option, value, "must be a whole number")
    elif hint is float:
        require(isinstance(value, (int, float)) and not isinstance(value, bool), option, value, "must be a number")
    elif hint is str:
        require(isinstance(value, str), option, value, "must be text")


def check_fields(config: Any, prefix: str = "") -> None:
    """Hold the fields of a dataclass to the choices of `Literal` and to the rules in their types."""
    kind: Any = type(config)
    for name, hint in _field_types(kind).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal:
            choices = get_args(hint)
            require(value in choices, prefix + name, value, f"choose one of {', '.join(map(str, choices))}")
        elif get_origin(hint) is Annotated:
            rule = hint.__metadata__[0]
            require(rule.fits(value), prefix + name, value, rule.remedy)


@cache
def _field_types(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)
