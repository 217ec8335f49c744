"""Algebra and calculus as tools: text in, text out, both in the words of expressions.py. The mathematics is SymPy's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy
from sympy import Expr, Rational, Symbol
from sympy.functions.elementary.trigonometric import TrigonometricFunction

from openglm.tools.expressions import Relation, normalized, parse_expression, parse_relations

_MOST_DECIMALS = 100
_LONGEST_ROOT = 60  # characters: a longer one is given in decimals
_RELATIONS = {"=": sympy.Eq, "≠": sympy.Ne, "<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge}


def solve(equations: list[str], variables: list[str] = []) -> str:  # noqa: B006
    """Solve equations for their unknowns among the real numbers, or inequalities of one unknown.

    equations: such as ["x + y = 3", "x - y = 1"] or ["1 < 2x + 1 < 5"]; an expression alone is set to 0
    variables: the unknowns; all names in the equations if left out
    """
    relations = [one for text in equations for one in _relations(text, variables)]
    unknown = [_symbol(name) for name in variables] or _symbols(side for one in relations for side in one[1:])
    if not relations or not unknown:
        raise ValueError("nothing to solve for; give equations with an unknown, or use Calc")
    if all(one.sign == "=" for one in relations):
        decimal = any(_has_decimals(text) for text in equations)
        solved = _solved_equations([one.left - one.right for one in relations], unknown, decimal)
    elif len(unknown) == 1:
        solved = _solved_inequalities(relations, *unknown)
    else:
        raise ValueError(f"inequalities are solved for one unknown, not for {len(unknown)}")
    periodic = any(side.has(TrigonometricFunction) for one in relations for side in one[1:])
    return f"{solved} (within one period)" if periodic else solved


def calc(expression: str, decimals: int | None = None) -> str:
    """Compute the value of an expression exactly; of an equation or inequality, whether it holds.

    expression: such as (3+333)*111/2, 100!, 15% * 80, sqrt(2), sin(30°), expand((x+1)^2), gcd(12, 18), 9.11 < 9.9
    decimals: round to so many decimal places; left out: exact, and with decimals where the expression has some
    """
    found = parse_relations(expression)
    if isinstance(found, list):
        return str(all(_holds(one) for one in found)).lower()
    if decimals is not None:
        return _rounded(found, decimals)
    return written(found, _has_decimals(expression))


def simplify(expression: str) -> str:
    """Simplify an expression, such as (x^2 - 1)/(x - 1)."""
    return written(sympy.simplify(parse_expression(expression)), _has_decimals(expression))


def diff(expression: str, variable: str = "", order: int = 1) -> str:
    """Differentiate an expression.

    variable: by which; may be left out where there is one alone
    order: of the derivative
    """
    if not 0 < order <= 20:
        raise ValueError(f"order = {order}: must be a whole number from 1 to 20")
    value, symbol = _of(expression, variable)
    return written(sympy.diff(value, symbol, order))


def integrate(expression: str, variable: str = "", lower: str = "", upper: str = "") -> str:
    """Integrate an expression: its antiderivative, or the integral between two limits.

    variable: over which; may be left out where there is one alone
    lower, upper: limits, such as 0 and oo
    """
    value, symbol = _of(expression, variable)
    if bool(lower) != bool(upper):
        raise ValueError("lower and upper: give both limits or none")
    limits = (symbol, parse_expression(lower), parse_expression(upper)) if lower else symbol
    return written(_evaluated(sympy.integrate(value, limits)))


def limit(expression: str, variable: str, point: str, side: str = "both") -> str:
    """The limit of an expression where a variable goes to a point.

    point: such as 0 or oo
    side: from which the point is approached: both, left or right
    """
    sides = {"both": "+-", "left": "-", "right": "+"}
    if side not in sides:
        raise ValueError(f"side = {side!r}: choose one of {', '.join(sides)}")
    value, symbol = _of(expression, variable)
    at = parse_expression(point)
    return written(_evaluated(sympy.limit(value, symbol, at, sides[side] if at.is_finite else "-")))


def add_up(expression: str, variable: str, first: str, last: str) -> str:
    """The sum of an expression for all whole numbers from first to last, such as 1/k^2 for k from 1 to oo."""
    value, symbol = _of(expression, variable)
    terms = symbol, parse_expression(first), parse_expression(last)
    return written(_evaluated(sympy.summation(value, terms)), _has_decimals(expression))


def _relations(text: str, variables: Iterable[str]) -> list[Relation]:
    found = parse_relations(text, [normalized(name).strip() for name in variables])
    return found if isinstance(found, list) else [Relation("=", found, sympy.S.Zero)]


def _of(expression: str, variable: str) -> tuple[Expr, Symbol]:
    """An expression, and the variable that is named or the only one."""
    value = parse_expression(expression, [normalized(variable).strip()])
    symbols = _symbols([value])
    if not variable and len(symbols) != 1:
        raise ValueError(f"variable: name one of {', '.join(map(str, symbols)) or 'none'}")
    return value, _symbol(variable) if variable else symbols[0]


def _symbol(name: str) -> Symbol:
    value = parse_expression(name, [normalized(name).strip()])
    if not value.is_Symbol:
        raise ValueError(f"{name!r} is no name of a variable")
    return value


def _symbols(values: Iterable[Expr]) -> list[Symbol]:
    return sorted(set().union(*(value.free_symbols for value in values)), key=str)


def _has_decimals(text: str) -> bool:
    """A percentage is one, and the remainder of whole numbers, of the same sign, has no decimals anyway."""
    return not {".", "%"}.isdisjoint(normalized(text))


def _evaluated(value: Expr) -> Expr:
    if value.has(sympy.Integral, sympy.Sum, sympy.Limit, sympy.AccumBounds):
        raise ValueError("no closed form was found")
    return value


def _holds(relation: Relation) -> bool:
    difference = sympy.simplify(relation.left - relation.right)
    found = _RELATIONS[relation.sign](difference, 0)
    if found not in (sympy.true, sympy.false):
        raise ValueError("whether it holds depends on its unknowns; use Solve")
    return bool(found)


def _solved_equations(zeros: list[Expr], unknown: list[Symbol], decimal: bool) -> str:
    if all(sympy.simplify(zero) == 0 for zero in zeros):
        return "every number"
    if any(zero.has(sympy.Abs) for zero in zeros):  # SymPy wants to know that these are real; else it loses roots then
        real = {symbol: Symbol(symbol.name, real=True) for symbol in unknown}
        zeros, unknown = [zero.xreplace(real) for zero in zeros], list(real.values())
    solutions = sympy.solve(zeros[0] if len(zeros) == 1 else zeros, unknown, dict=True)  # in a system it loses roots
    real_ones = [one for one in solutions if all(map(_is_real, one.values()))]
    texts = [", ".join(_equals(name, value, decimal) for name, value in one.items()) for one in real_ones]
    return "; ".join(texts) or ("no real solution" if solutions else "no solution found")


def _is_real(value: Expr) -> bool:
    """Of what has parameters nothing is known, so it counts."""
    return not value.is_number or abs(sympy.im(sympy.N(value, 20))) < 1e-12


def _equals(name: Symbol, value: Expr, decimal: bool) -> str:
    return f"{name}≈{_decimals(value)}" if _is_long(value) else f"{name}={written(value, decimal)}"


def _is_long(value: Expr) -> bool:
    """Whether a number is better read in decimals."""
    return value.is_number and (len(str(value)) > _LONGEST_ROOT or value.has(sympy.CRootOf))


def _decimals(value: Expr) -> str:
    return str(sympy.re(sympy.N(value, 10)))


def _solved_inequalities(relations: list[Relation], unknown: Symbol) -> str:
    found: Any = sympy.S.Reals
    for one in relations:
        condition = _RELATIONS[one.sign](one.left, one.right)
        found = found.intersect(sympy.solveset(condition, unknown, sympy.S.Reals))
    if found is sympy.S.Reals:
        return "every real number"
    return "; ".join(_interval(part, unknown) for part in (found.args if found.is_Union else [found]))


def _interval(part: Any, unknown: Symbol) -> str:
    if part is sympy.S.EmptySet:
        return "no real solution"
    if part.is_FiniteSet:
        return "; ".join(_equals(unknown, value, False) for value in part)
    if not part.is_Interval:
        raise ValueError("no closed form was found")
    start, end = (_decimals(value) if _is_long(value) else str(value) for value in (part.start, part.end))
    below = "" if part.start is -sympy.oo else f"{start}{'<' if part.left_open else '<='}"
    above = "" if part.end is sympy.oo else f"{'<' if part.right_open else '<='}{end}"
    return f"{below}{unknown}{above}"


def written(value: Expr, decimal: bool = False) -> str:
    """A value as text that the parser reads again. decimal: with decimals where it is a number."""
    if value.has(sympy.nan, sympy.zoo):
        raise ValueError("undefined: a division by zero, or a limit that is not there")
    if not decimal or not value.is_number or value.is_infinite:
        return str(value)
    places = _decimal_places(value) if value.is_Rational else None
    return str(sympy.N(value, 10)) if places is None else _rounded(value, places)


def _decimal_places(value: Expr) -> int | None:
    """How many a fraction has; None where they do not end within twenty."""
    return next((places for places in range(21) if (value * 10**places).is_Integer), None)


def _rounded(value: Expr, places: int) -> str:
    """Half away from zero, as it is taught."""
    if not 0 <= places <= _MOST_DECIMALS:
        raise ValueError(f"decimals = {places}: must be a whole number from 0 to {_MOST_DECIMALS}")
    if not value.is_real:
        return written(value)
    scaled = sympy.floor(sympy.Abs(value) * 10**places + Rational(1, 2))
    digits = str(scaled).rjust(places + 1, "0")
    sign = "-" if value.is_negative and scaled else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)
