"""Text to SymPy objects by a parser of our own: a tokenizer and precedence climbing. Nothing of a text is run.

A text holds numbers, names and operators. A name is a constant or a function of the lists below, else a symbol, so
there is nothing through which a text could reach Python: no attributes, no strings, no indices. The size of a number is
estimated before it is computed. What takes long all the same is ended from outside (pool.py).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import sympy
from sympy import Expr, Integer, Rational, Symbol

MOST_CHARACTERS, MOST_DEPTH, LONGEST_NAME = 2000, 50, 32
MOST_BITS = 40_000  # of a number: about 12,000 digits
_LARGEST_FACTORIAL = 3000  # which has 9,131 digits

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("×·∙⋅✕", "*"),
        **dict.fromkeys("÷∕:∶", "/"),
        **dict.fromkeys("−–", "-"),
        **dict.fromkeys("≤≦⩽", "<="),
        **dict.fromkeys("≥≧⩾", ">="),
        **{"π": " pi ", "∞": " oo ", "、": ",", "【": "[", "】": "]"},
    }
)
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?!0[a-zA-Z])(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<name>[^\W\d_]\w*)|(?P<sign>\*\*|[<>=]=|!!|[-+*/^=<>≠!%()\[\]{},|√°]))"
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_RELATIONS = {"=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "≠": "≠"}


class Relation(NamedTuple):
    """Two sides of an equation or inequality."""

    sign: str
    left: Expr
    right: Expr


def _bits(value: Expr) -> int:
    """Of the longest number in an expression."""
    numbers = value.atoms(Rational)
    return max((max(int(one.p).bit_length(), int(one.q).bit_length()) for one in numbers), default=0)


def _require_small(bits: int) -> None:
    if bits > MOST_BITS:
        raise ValueError("a number of more than 12,000 digits is not computed")


def _power(base: Expr, exponent: Expr) -> Expr:
    """In the worst case all numbers of the base are raised to the largest one of the exponent."""
    largest = max((abs(one) for one in exponent.atoms(Rational)), default=Integer(1))
    _require_small(sum(_bits(one) for one in base.atoms(Rational) - {1, -1, 0}) * max(int(largest), 1))
    if base.is_zero and exponent.is_negative:
        raise ValueError("division by zero")
    return base**exponent


def _divide(left: Expr, right: Expr) -> Expr:
    if right.is_zero:
        raise ValueError("division by zero")
    return left / right


def _factorial(value: Expr) -> Expr:
    if value.is_Rational and value > _LARGEST_FACTORIAL:
        raise ValueError(f"a factorial of more than {_LARGEST_FACTORIAL}")
    return sympy.factorial(value)


def _double_factorial(value: Expr) -> Expr:
    _factorial(value)
    return sympy.factorial2(value)


def _binomial(n: Expr, k: Expr) -> Expr:
    if n.is_Rational and k.is_Rational:
        factors = min(abs(k), abs(n - k)) if n >= 0 else abs(k)
        _require_small(int(factors) * int(abs(n) + abs(k) + 1).bit_length())
    return sympy.binomial(n, k)


def _permutations(n: Expr, k: Expr) -> Expr:
    return _binomial(n, k) * _factorial(k)


_SIGN_FUNCTIONS: dict[str, tuple[int, Callable[[Expr, Expr], Expr]]] = {
    "+": (1, lambda left, right: left + right),
    "-": (1, lambda left, right: left - right),
    "*": (2, lambda left, right: left * right),
    "/": (2, _divide),
    "%": (2, sympy.Mod),
    "^": (4, _power),
    "**": (4, _power),
}
_UNARY = 3  # -2^2 is -4
_POSTFIX: dict[str, Callable[[Expr], Expr]] = {
    "!": _factorial,
    "!!": _double_factorial,
    "%": lambda value: value / 100,
    "°": lambda value: value * sympy.pi / 180,
}
CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "E": sympy.E, "I": sympy.I, "oo": sympy.oo, "inf": sympy.oo}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(sympy, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan")},
    **{f"arc{name}": getattr(sympy, f"a{name}") for name in ("sin", "cos", "tan")},
    **{name: getattr(sympy, name) for name in ("sinh", "cosh", "tanh", "exp", "log", "floor", "sign", "re", "im")},
    **{"ln": sympy.log, "lg": lambda x: sympy.log(x, 10), "log2": lambda x: sympy.log(x, 2)},
    **{"sqrt": lambda x: _power(x, Rational(1, 2)), "cbrt": lambda x: _power(x, Rational(1, 3))},
    **{"root": lambda x, n: _power(x, _divide(Integer(1), n)), "pow": _power, "mod": sympy.Mod},
    **{"abs": sympy.Abs, "ceil": sympy.ceiling, "ceiling": sympy.ceiling, "min": sympy.Min, "max": sympy.Max},
    **{"gcd": lambda *values: sympy.gcd_list(values), "lcm": lambda *values: sympy.lcm_list(values)},
    **{"factorial": _factorial, "binomial": _binomial, "comb": _binomial, "perm": _permutations},
    **{"expand": sympy.expand, "factor": sympy.factor},
}


def normalized(text: str) -> str:
    """A text with plain digits and signs: full width, Chinese signs and superscripts are read. Raises ValueError."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text)} characters; at most {MOST_CHARACTERS} are read")
    text = re.sub("[⁰¹²³⁴-⁹⁺⁻ⁿ]+", lambda run: f"^({run[0].translate(_SUPERSCRIPTS)})", text)
    for character in text:
        if unicodedata.decomposition(character).startswith(("<super>", "<fraction>")):
            raise ValueError(f"the character {character!r} is not read; write it out")
    return unicodedata.normalize("NFKC", text).translate(_SIGNS)


def split(text: str) -> list[str]:
    """Pieces between the commas and semicolons that stand outside all brackets."""
    pieces, depth = [""], 0
    for character in text.translate(str.maketrans("，；、（）［］【】｛｝", ",;,()[][]{}")):
        depth += (character in "([{") - (character in ")]}")
        if character in ",;" and depth <= 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return [piece.strip() for piece in pieces]


def parse_expression(text: str, symbols: Collection[str] = ()) -> Expr:
    """`2x + 1` as an expression. symbols: names that are symbols even if a constant or a function has them.

    Raises ValueError of one line for whatever is not an expression.
    """
    relations = parse_relations(text, symbols)
    if isinstance(relations, list):
        raise ValueError(f"{text!r} is an equation or inequality; an expression is wanted")
    return relations


def parse_relations(text: str, symbols: Collection[str] = ()) -> Expr | list[Relation]:
    """`x + 1 = 3` as a list of one relation, `1 < x < 3` as one of two, and an expression as itself."""
    parser = _Parser(text, symbols)
    sides, signs = [parser.climb()], []
    while parser.next in _RELATIONS:
        signs.append(_RELATIONS[parser.take()])
        sides.append(parser.climb())
    parser.expect("")
    if not signs:
        return sides[0]
    return [Relation(sign, *pair) for sign, *pair in zip(signs, sides[:-1], sides[1:], strict=True)]


class _Parser:
    def __init__(self, text: str, symbols: Collection[str]) -> None:
        self.text, self.symbols, self.depth = text, symbols, 0
        self.tokens: list[tuple[str, str]] = []  # kind and text, the next one last
        plain, position = normalized(text).rstrip(), 0
        while position < len(plain):
            token = _TOKEN.match(plain, position)
            if token is None:
                raise ValueError(f"{plain[position:].strip()[0]!r} is not read in {text!r}")
            self.tokens.append((str(token.lastgroup), token[str(token.lastgroup)]))
            position = token.end()
        self.tokens.reverse()

    @property
    def next(self) -> str:
        """The next token; empty at the end."""
        return self.tokens[-1][1] if self.tokens else ""

    def take(self) -> str:
        return self.tokens.pop()[1] if self.tokens else ""

    def expect(self, sign: str) -> None:
        if self.next != sign:
            found, wanted = self.next or "the end", sign or "the end"
            raise ValueError(f"{found!r} where {wanted!r} is wanted in {self.text!r}")
        self.take()

    @property
    def operand_follows(self) -> bool:
        """Whether the next token begins what is multiplied without a sign, as in 2x and 3(x + 1)."""
        return bool(self.tokens) and (self.tokens[-1][0] == "name" or self.next in ("√", *_CLOSING))

    def climb(self, least: int = 0) -> Expr:
        """An operand and all operators behind it that bind at least so strongly."""
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise ValueError(f"nested more than {MOST_DEPTH} deep")
        left = self.operand()
        while True:
            implied = self.operand_follows
            sign = "*" if implied else self.next
            strength, function = _SIGN_FUNCTIONS.get(sign, (-1, None))
            if function is None or strength < least:
                break
            if not implied:
                self.take()
            left = function(left, self.climb(strength if function is _power else strength + 1))
            _require_small(_bits(left.as_coeff_Mul()[0]))
        self.depth -= 1
        return left

    def operand(self) -> Expr:
        if self.next in ("+", "-"):
            return Integer(-1 if self.take() == "-" else 1) * self.climb(_UNARY)
        if self.next == "√":
            self.take()
            return _power(self.climb(_UNARY + 2), Rational(1, 2))
        value = self.atom()
        while self.next in _POSTFIX:
            sign = self.take()
            if sign == "%" and (self.operand_follows or self.number_follows):
                self.tokens.append(("sign", sign))  # it stands between two numbers
                break
            value = _POSTFIX[sign](value)
        return value

    @property
    def number_follows(self) -> bool:
        return bool(self.tokens) and self.tokens[-1][0] == "number"

    def atom(self) -> Expr:
        kind, text = self.tokens.pop() if self.tokens else ("", "the end")
        if kind == "number":
            return _number(text)
        if kind == "name":
            return self.named(text)
        if text in _CLOSING:
            value = self.climb()
            self.expect(_CLOSING[text])
            return value
        if text == "|":
            value = self.climb()
            self.expect("|")
            return sympy.Abs(value)
        raise ValueError(f"{text!r} where a number or a name is wanted in {self.text!r}")

    def named(self, name: str) -> Expr:
        if name in FUNCTIONS and name not in self.symbols:
            self.expect("(")
            arguments = [self.climb()]
            while self.next == ",":
                self.take()
                arguments.append(self.climb())
            self.expect(")")
            value = FUNCTIONS[name](*arguments)
            _require_small(_bits(value))
            return value
        if name in CONSTANTS and name not in self.symbols:
            return CONSTANTS[name]
        if len(name) > 1 and self.next == "(" and name not in self.symbols:
            raise ValueError(f"the function {name!r} is not known; to multiply, write {name}*(...)")
        if len(name) > LONGEST_NAME:
            raise ValueError(f"the name {name!r} is longer than {LONGEST_NAME} characters")
        return Symbol(name)


def _number(text: str) -> Expr:
    """Decimals are exact: 0.1 is 1/10."""
    digits, _, exponent = text.lower().partition("e")
    _require_small(4 * (len(digits) + abs(int(exponent or "0"))))
    return Rational(digits) * Integer(10) ** int(exponent or "0")
