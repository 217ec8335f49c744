"""Conversion of units as a tool. A unit is an expression of other units, so `km/h` and `kg*m/s^2` need no entry."""

from __future__ import annotations

from functools import cache

import sympy
from sympy import Expr, Symbol

from openglm.tools.algebra import written
from openglm.tools.expressions import normalized, parse_expression

# Names of one unit, and what it is; a unit without that is one of its own.
_TABLE = """
m meter meters metre metres 米
km kilometer kilometers kilometre kilometres 千米 公里 = 1000 m
dm 分米 = m/10
cm centimeter centimeters centimetre centimetres 厘米 公分 = m/100
mm millimeter millimeters millimetre millimetres 毫米 = m/1000
um micrometer micrometers 微米 = m/10^6
nm nanometer nanometers 纳米 = m/10^9
inch inches in 英寸 = 254 m/10000
ft foot feet 英尺 = 12 inch
yd yard yards 码 = 3 ft
mi mile miles 英里 = 5280 ft
nmi 海里 = 1852 m
里 = 500 m
丈 = 10 m/3
尺 = m/3
寸 = m/30
ly 光年 = 9460730472580800 m
平方米 = m^2
平方厘米 = cm^2
平方公里 平方千米 = km^2
ha hectare hectares 公顷 = 10000 m^2
acre acres 英亩 = 4840 yd^2
亩 = 2000 m^2/3
立方米 = m^3
立方厘米 cc = cm^3
L l liter liters litre litres 升 = dm^3
mL ml milliliter milliliters millilitre millilitres 毫升 = cm^3
gal gallon gallons 加仑 = 231 inch^3
pint pints = gal/8
kg kilogram kilograms 千克 公斤
g gram grams 克 = kg/1000
mg milligram milligrams 毫克 = g/1000
t tonne tonnes 吨 = 1000 kg
lb pound pounds 磅 = 45359237 kg/10^8
oz ounce ounces 盎司 = lb/16
斤 = kg/2
两 = 斤/10
钱 = 两/10
s sec second seconds 秒
ms 毫秒 = s/1000
min minute minutes 分钟 = 60 s
h hr hour hours 小时 = 60 min
d day days 天 日 = 24 h
week weeks 周 星期 = 7 d
year years 年 = 36525 d/100
mph = mi/h
kmh 公里每小时 千米每小时 = km/h
kn knot knots 节 = nmi/h
N newton newtons 牛 牛顿 = kg*m/s^2
J joule joules 焦 焦耳 = N*m
kJ 千焦 = 1000 J
cal 卡 = 4184 J/1000
kcal 千卡 大卡 = 1000 cal
W watt watts 瓦 瓦特 = J/s
kW 千瓦 = 1000 W
kWh 度 千瓦时 = kW*h
hp 马力 = 7457 W/10
Pa pascal 帕 帕斯卡 = N/m^2
kPa 千帕 = 1000 Pa
bar 巴 = 10^5 Pa
atm 大气压 = 101325 Pa
bit bits 比特
B byte bytes 字节 = 8 bit
KB kB = 1000 B
MB 兆 = 10^6 B
GB = 10^9 B
TB = 10^12 B
KiB = 1024 B
MiB = 1024 KiB
GiB = 1024 MiB
rad 弧度
deg degree degrees = pi*rad/180
K 开 开尔文
"""
# Temperatures have no common zero: kelvins are value * factor + offset.
_TEMPERATURES = {
    **dict.fromkeys(("K", "kelvin", "开", "开尔文"), ("1", "0")),
    **dict.fromkeys(("C", "°C", "celsius", "摄氏度"), ("1", "273.15")),
    **dict.fromkeys(("F", "°F", "fahrenheit", "华氏度"), ("5/9", "459.67*5/9")),
}


def convert(quantity: str, unit: str) -> str:
    """Convert a quantity to another unit.

    quantity: a number with its unit, such as 60 km/h, 5 ft + 6 inch, 3 斤, 25 °C
    unit: such as m/s, cm, kg, °F
    """
    quantity, unit = normalized(quantity).strip(), normalized(unit).strip()
    if unit in _TEMPERATURES:
        value = _temperature(quantity, unit)
    else:
        value = _in_base_units(quantity) / _in_base_units(unit)
        if value.free_symbols:
            raise ValueError(f"{quantity!r} is not measured in {unit!r}")
    return f"{written(value, decimal=True)} {unit}"


def _temperature(quantity: str, unit: str) -> Expr:
    name = max((name for name in _TEMPERATURES if quantity.endswith(name)), key=len, default="")
    if not name:
        raise ValueError(f"{quantity!r} is no temperature; give one such as 25 °C")
    factor, offset = map(parse_expression, _TEMPERATURES[name])
    own_factor, own_offset = map(parse_expression, _TEMPERATURES[unit])
    kelvins = parse_expression(quantity.removesuffix(name)) * factor + offset
    if kelvins.is_negative:
        raise ValueError(f"{quantity!r} lies below absolute zero")
    return (kelvins - own_offset) / own_factor


@cache
def _units() -> dict[str, Expr]:
    """Each name as a multiple of the units that are their own."""
    units: dict[str, Expr] = {}
    for line in _TABLE.strip().splitlines():
        names, _, meaning = line.partition(" = ")
        first, *others = names.split()
        units[first] = _replaced(parse_expression(meaning, units), units) if meaning else Symbol(first)
        units.update(dict.fromkeys(others, units[first]))
    return units


def _replaced(value: Expr, units: dict[str, Expr]) -> Expr:
    return value.xreplace({Symbol(name): units[name] for name in map(str, value.free_symbols)})


def _in_base_units(text: str) -> Expr:
    value = parse_expression(text, _units())
    unknown = [name for name in map(str, value.free_symbols) if name not in _units()]
    if unknown:
        raise ValueError(f"the unit {unknown[0]!r} is not known")
    return sympy.expand(_replaced(value, _units()))
