"""The registry: functions become tools by their types and docstrings, and servers of the Model Context Protocol are driven for real."""

import json
import sys
from pathlib import Path
from typing import Literal

import pytest

from openglm import Tools

SERVER = [sys.executable, [str(Path(__file__).parent.parent / "helpers" / "mcp_server.py")]]


def book(
    city: str, nights: int = 1, kind: Literal["single", "double"] = "single", guests: list[str] | None = None
) -> dict:
    """Book a room.

    It is not paid yet.

    city: where,
        by its usual name
    nights: how long
    """
    return {"city": city, "nights": nights + 1, "kind": kind, "guests": guests}


@pytest.fixture
def tools():
    made = Tools()
    made.add(book)
    yield made
    made.close()


def test_a_function_is_described_by_its_types_and_docstring(tools):
    function = tools.added[0]["function"]
    properties = function["parameters"]["properties"]
    assert (function["name"], function["description"]) == ("book", "Book a room.")
    assert function["parameters"]["required"] == ["city"]
    assert properties["city"] == {"type": "string", "description": "where, by its usual name"}
    assert properties["nights"] == {"type": "integer", "description": "how long", "default": 1}
    assert properties["kind"]["enum"] == ["single", "double"]


def test_arguments_by_name_by_position_and_as_json_are_the_same_call(tools):
    expected = '{"city": "北京", "nights": 4, "kind": "double", "guests": null}'
    assert tools.call("book", {"city": "北京", "nights": 3, "kind": "double"}) == expected
    assert tools.call("book", "北京, 3, double") == expected
    assert tools.call("book", '{"city": "北京", "nights": "3", "kind": "double"}') == expected


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "book: city: Field required"),
        ({"city": "x", "rooms": 1}, "book: rooms: Extra inputs are not permitted"),
        ({"city": "x", "nights": "many"}, "book: nights: Input should be a valid integer"),
        ("x,1,triple", "book: kind: Input should be 'single' or 'double'"),
        ("a,b,c,d,e", "book: takes city, nights, kind, guests, but 5 values"),
    ],
)
def test_wrong_arguments_are_one_line_that_names_them(tools, arguments, told):
    with pytest.raises(ValueError) as error:
        tools.call("book", arguments)
    assert str(error.value).startswith(told) and "\n" not in str(error.value)


def test_what_cannot_be_a_tool_is_refused(tools):
    with pytest.raises(ValueError, match="one of this name already"):
        tools.add(book)
    with pytest.raises(ValueError, match="with a type"):
        tools.add(lambda city: city)
    with pytest.raises(ValueError, match=r"seconds = 0"):
        Tools(seconds=0)


def test_a_program_runs_in_the_sandbox(tools):
    assert tools.call("Python", "for n in range(3):\n    print(n, end=',')") == "0,1,2,"
    assert tools.call("Python", {"code": "x = 1"}) == "(it printed nothing)"
    for code, told in (
        ("1/0", "ZeroDivisionError: division by zero"),
        ("import socket; socket.socket()", "PermissionError"),
        ("x = 'y' * 10**10", "MemoryError|memory"),
    ):
        with pytest.raises(ValueError, match=told) as error:
            tools.call("Python", code)
        assert "\n" not in str(error.value)


def test_an_mcp_server_is_driven_over_its_standard_input(tools, tmp_path):
    command, args = SERVER
    config = tmp_path / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"pets": {"command": command, "args": args}}}))
    tools.add_mcp(config)
    assert tools.names[-3:] == ["pets_feed", "pets_bite", "pets_die"]
    [feed] = [one["function"] for one in tools.added if one["function"]["name"] == "pets_feed"]
    assert feed["description"] == "Feed a pet." and feed["parameters"]["required"] == ["pet"]
    assert tools.call("pets_feed", {"pet": "cat"}) == "cat ate 10 g"
    assert tools.call("pets_feed", '{"pet": "cat", "grams": 5}') == "cat ate 5 g"
    for name, arguments, told in (
        ("pets_feed", {}, "pet"),
        ("pets_bite", {"pet": "cat"}, "bite"),
        ("pets_die", {}, "Connection closed"),
        ("pets_feed", {"pet": "cat"}, "Connection closed"),
    ):
        with pytest.raises(ValueError, match=told) as error:
            tools.call(name, arguments)
        assert "\n" not in str(error.value)


def test_a_server_from_pypi_tells_the_time(tools):
    pytest.importorskip("mcp_server_time")
    tools.add_mcp({"mcpServers": {"time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]}}})
    asked = {"source_timezone": "Asia/Shanghai", "time": "12:00", "target_timezone": "UTC"}
    assert "T04:00:00+00:00" in tools.call("time_convert_time", asked)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"servers": {}}, "must hold"),
        ({"mcpServers": {"x": 1}}, "must hold"),
        ({"mcpServers": {"x": {}}}, r"mcpServers\.x: .*command"),
        ({"mcpServers": {"x": {"command": "/no/such/program"}}}, r"mcpServers\.x: .*No such file"),
        ({"mcpServers": {"x": {"command": sys.executable, "args": ["-c", ""]}}}, r"mcpServers\.x: .*closed"),
    ],
)
def test_a_server_that_is_not_there_is_one_line(tools, config, told):
    with pytest.raises(ValueError, match=told) as error:
        tools.add_mcp(config)
    assert "\n" not in str(error.value)
