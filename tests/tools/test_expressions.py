"""What the built-in tools answer: values worked out by hand or known from books, and SymPy objects built without a text."""

import math

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Rational, Symbol

from openglm.tools.builtin import BUILT_IN
from openglm.tools.expressions import parse_expression, parse_relations, split

x, y = Symbol("x"), Symbol("y")
WRITTEN = {
    "2x": 2 * x,
    "3(x+1)": 3 * (x + 1),
    "(x+1)(x-1)": (x + 1) * (x - 1),
    "-x^2": -(x**2),
    "2^-x": 2 ** (-x),
    "2^3^2": sympy.Integer(512),
    "1/2x": x / 2,
    "x²+2x+1": x**2 + 2 * x + 1,
    "２×（３＋４）÷７": sympy.Integer(2),
    "√(x+1)": sympy.sqrt(x + 1),
    "√9+1": sympy.Integer(4),
    "50%": Rational(1, 2),
    "200(1-20%)": sympy.Integer(160),
    "17 % 5": sympy.Integer(2),
    "0.1+0.2": Rational(3, 10),
    "1.5e3": sympy.Integer(1500),
    "5!": sympy.Integer(120),
    "7!!": sympy.Integer(105),
    "|x-1|": sympy.Abs(x - 1),
    "2πx": 2 * sympy.pi * x,
    "sin(30°)": Rational(1, 2),
    "[(1+2)×3]+{4}": sympy.Integer(13),
    "甲+乙": Symbol("甲") + Symbol("乙"),
    "x(y+1)": x * (y + 1),
    "3:4": Rational(3, 4),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_texts_become_the_objects_they_mean(text):
    assert sympy.simplify(parse_expression(text) - WRITTEN[text]) == 0


numbers = st.integers(0, 50).map(str)
trees = st.recursive(
    numbers, lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: f"({''.join(parts)})")
)


@settings(max_examples=150, deadline=None)
@given(trees, st.booleans())
def test_arithmetic_is_pythons(text, wide):
    """Also in full width. The texts hold digits, brackets and + - * alone, which `int` and Python's own rules cover."""
    import ast
    import operator

    signs = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}

    def value(node):
        if isinstance(node, ast.BinOp):
            return signs[type(node.op)](value(node.left), value(node.right))
        return node.value

    expected = value(ast.parse(text, mode="eval").body)
    shown = text.translate(str.maketrans("0123456789()+-*", "０１２３４５６７８９（）＋－×")) if wide else text
    assert parse_expression(shown) == expected


def test_relations_and_lists():
    assert parse_relations("1<x<=3") == [("<", 1, x), ("<=", x, 3)]
    assert parse_relations("x＝3") == [("=", x, 3)]
    assert parse_relations("5!=120") == [("=", 120, 120)], "a factorial, then an equation"
    assert split("[x+y=3，x-y=1]，[x，y]") == ["[x+y=3,x-y=1]", "[x,y]"]
    assert split("max(1,2),3") == ["max(1,2)", "3"]


@pytest.mark.parametrize(
    "text",
    ["", "1+", "(1", "1 2", "x.y", "x[", "__a", "½", "fibonacci(5)", "0x41", "sin x", "sin(1,2)", "1=2", "²", "1,2"],
)
def test_what_is_no_expression_is_an_error_of_one_line(text):
    with pytest.raises((ValueError, TypeError)) as error:
        parse_expression(text)
    assert "\n" not in str(error.value)


KNOWN = [
    ("Calc", ["(3+333)*111/2"], "18648"),
    ("Calc", ["2^100"], "1267650600228229401496703205376"),
    ("Calc", ["1/3+1/6"], "1/2"),
    ("Calc", ["0.1+0.2"], "0.3"),
    ("Calc", ["37*15%"], "5.55"),
    ("Calc", ["17 % 5"], "2"),
    ("Calc", ["2/3", 2], "0.67"),
    ("Calc", ["-0.125", 2], "-0.13"),
    ("Calc", ["pi", 5], "3.14159"),
    ("Calc", ["30!"], str(math.factorial(30))),
    ("Calc", ["comb(52,5)"], "2598960"),
    ("Calc", ["gcd(84,126)+lcm(4,6)"], "54"),
    ("Calc", ["9.11>9.9"], "false"),
    ("Calc", ["3+6=9"], "true"),
    ("Calc", ["(x+1)^2=x^2+2x+1"], "true"),
    ("Solve", [["333=3+(n-1)*3"], ["n"]], "n=111"),
    ("Solve", [["x^2-5x+6=0"]], "x=2; x=3"),
    ("Solve", [["x+y=35", "2x+4y=94"], ["x", "y"]], "x=23, y=12"),
    ("Solve", [["x^2+y^2=25", "x+y=7"]], "x=3, y=4; x=4, y=3"),
    ("Solve", [["x^2-5x+6<0"]], "2<x<3"),
    ("Solve", [["x^2>=4"]], "x<=-2; 2<=x"),
    ("Solve", [["x^2+1=0"]], "no real solution"),
    ("Solve", [["x=x"]], "every number"),
    ("Solve", [["x=x+1"]], "no solution found"),
    ("Solve", [["|x-1|=2"]], "x=-1; x=3"),
    ("Solve", [["0.5x=1.3"]], "x=2.6"),
    ("Simplify", ["(x^2-1)/(x-1)"], "x + 1"),
    ("Diff", ["x^3"], "3*x**2"),
    ("Diff", ["x^3", "x", 2], "6*x"),
    ("Integrate", ["2x"], "x**2"),
    ("Integrate", ["e^(-x^2)", "x", "-oo", "oo"], "sqrt(pi)"),
    ("Limit", ["sin(x)/x", "x", "0"], "1"),
    ("Limit", ["(1+1/n)^n", "n", "oo"], "E"),
    ("Limit", ["1/x", "x", "0", "left"], "-oo"),
    ("Sum", ["3*n", "n", "1", "111"], "18648"),
    ("Sum", ["1/k^2", "k", "1", "oo"], "pi**2/6"),
    ("Convert", ["36 km/h", "m/s"], "10 m/s"),
    ("Convert", ["100 °C", "°F"], "212 °F"),
    ("Convert", ["6 ft + 2 inch", "cm"], "187.96 cm"),
    ("Convert", ["3斤", "克"], "1500 克"),
    ("Convert", ["1 kWh", "J"], "3600000 J"),
    ("Date", ["2024-03-01 - 2024-02-01"], "29 days"),
    ("Date", ["2023年2月1日到2023年3月1日"], "28 days"),
    ("Date", ["2000-01-01"], "2000-01-01, Saturday, 星期六, day 1 of the year, 农历一九九九年冬月廿五"),
    ("Date", ["农历2024年1月1日"], "2024-02-10, Saturday, 星期六, day 41 of the year, 农历二〇二四年正月初一"),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), KNOWN)
def test_known_answers(name, arguments, expected):
    assert BUILT_IN[name](*arguments) == expected


def test_a_month_is_added_within_the_month():
    assert BUILT_IN["Date"]("2024-01-31 + 1 month").startswith("2024-02-29")
    assert BUILT_IN["Date"]("2024-02-29 + 1年").startswith("2025-02-28")


def test_all_real_roots_are_found_where_there_is_no_formula():
    """x^7 - x^5 + 3x^2 - 1 changes its sign between these bounds and nowhere else (Sturm's theorem, by SymPy's Poly)."""
    polynomial = sympy.Poly(x**7 - x**5 + 3 * x**2 - 1)
    text = BUILT_IN["Solve"](["x^7-x^5+3x^2-1=0"])
    roots = [float(one.removeprefix("x≈")) for one in text.split("; ")]
    assert len(roots) == polynomial.count_roots() and all(abs(polynomial.eval(root)) < 1e-7 for root in roots)


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("Calc", ["1/0"], "division by zero"),
        ("Limit", ["1/x", "x", "0"], "undefined"),
        ("Integrate", ["x^x"], "no closed form"),
        ("Convert", ["1 m", "kg"], "not measured in"),
        ("Convert", ["1 blorp", "m"], "not known"),
        ("Convert", ["-300 °C", "K"], "absolute zero"),
        ("Date", ["2023-02-29"], "no date"),
        ("Solve", [["x>1", "y>2"]], "one unknown"),
        ("Calc", ["9^9^9"], "12,000 digits"),
    ],
)
def test_what_has_no_answer_says_why(name, arguments, told):
    with pytest.raises(ValueError, match=told):
        BUILT_IN[name](*arguments)
