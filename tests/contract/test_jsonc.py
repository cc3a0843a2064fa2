"""The JSONC editor: an edit changes what it is asked to, and not a byte more of a user's text."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agenthub_adapters import jsonc
from agenthub_adapters.jsonc import JsoncError

quick = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
    max_examples=100,
    derandomize=bool(os.environ.get("CI")),
)

HUB = {"type": "local", "command": ["agenthub", "mcp"]}


def lines(*each: str) -> str:
    return "".join(line + "\n" for line in each)


# ----------------------------------------------------------------------------------------- examples

ADDITIONS = [
    pytest.param(
        lines("{", '  "a": 1', "}"),
        ["b"],
        2,
        lines("{", '  "a": 1,', '  "b": 2', "}"),
        id="the last member without a comma",
    ),
    pytest.param(
        lines("{", '  "a": 1,', "}"),
        ["b"],
        2,
        lines("{", '  "a": 1,', '  "b": 2,', "}"),
        id="a trailing comma",
    ),
    pytest.param(
        lines("{", '  "a": 1 // note', "}"),
        ["b"],
        2,
        lines("{", '  "a": 1, // note', '  "b": 2', "}"),
        id="a comment after the last member",
    ),
    pytest.param(
        lines("{", '  "a": 1, /* one */ // two', "}"),
        ["b"],
        2,
        lines("{", '  "a": 1, /* one */ // two', '  "b": 2,', "}"),
        id="comments after a trailing comma",
    ),
    pytest.param(
        lines("{", '  "a": 1 // note', "  // , more", "", "}"),
        ["b"],
        2,
        lines("{", '  "a": 1, // note', "  // , more", '  "b": 2', "", "}"),
        id="comments and blank lines below the last member",
    ),
    pytest.param(
        lines("{", '  "a": 1 // note', "  ,", "}"),
        ["b"],
        2,
        lines("{", '  "a": 1 // note', "  ,", '  "b": 2,', "}"),
        id="a trailing comma on a line of its own",
    ),
    pytest.param(
        lines("{", '  "a": 1   ', "  }"),
        ["b"],
        2,
        lines("{", '  "a": 1,   ', '  "b": 2', "  }"),
        id="blanks at the end of a line",
    ),
    pytest.param(
        '{\r\n    "a": 1\r\n}\r\n',
        ["hub"],
        {"on": True},
        '{\r\n    "a": 1,\r\n    "hub": {\r\n        "on": true\r\n    }\r\n}\r\n',
        id="line breaks of Windows and four spaces",
    ),
    pytest.param(
        lines("{", '\t"mcp": {', '\t\t"x": {}', "\t}", "}"),
        ["mcp", "hub"],
        {"on": True},
        lines(
            "{",
            '\t"mcp": {',
            '\t\t"x": {},',
            '\t\t"hub": {',
            '\t\t\t"on": true',
            "\t\t}",
            "\t}",
            "}",
        ),
        id="tabs",
    ),
    pytest.param(
        '\ufeff{\n  "a": 1\n}',
        ["b"],
        2,
        '\ufeff{\n  "a": 1,\n  "b": 2\n}',
        id="a byte order mark and no line break at the end",
    ),
    pytest.param(
        lines('{ "a": 1,', '  "b": 2 /* two */ }'),
        ["c"],
        3,
        lines('{ "a": 1,', '  "b": 2, /* two */', '  "c": 3 }'),
        id="a brace on the line of the last member",
    ),
    pytest.param(
        lines('{ "a": "http://x" // note', "", "}"),
        ["b"],
        2,
        lines('{ "a": "http://x", // note', '  "b": 2', "", "}"),
        id="a brace on the line of the only member",
    ),
    pytest.param(
        lines("{", '"a": {', '"x": 1', "}", "}"),
        ["a", "y"],
        {"z": 2},
        lines("{", '"a": {', '"x": 1,', '"y": {', '  "z": 2', "}", "}", "}"),
        id="no indentation",
    ),
    pytest.param('{"a": 1}', ["b"], 2, '{"a": 1, "b": 2}', id="one line"),
    pytest.param('{ "a": 1, }', ["b"], [], '{ "a": 1, "b": [], }', id="one line, trailing comma"),
    pytest.param(
        '{"a": 1 /* one */}', ["b"], 2, '{"a": 1, /* one */ "b": 2}', id="one line with a comment"
    ),
    pytest.param(
        '{"a": {\n  "x": 1\n}}',
        ["b"],
        {"y": 2},
        '{"a": {\n  "x": 1\n}, "b": {\n  "y": 2\n}}',
        id="members that hug one another",
    ),
    pytest.param("{\n}", ["a"], 1, '{\n  "a": 1\n}', id="an empty object over two lines"),
    pytest.param(
        lines("{", "  // nothing yet", "}"),
        ["a"],
        1,
        lines("{", "  // nothing yet", '  "a": 1', "}"),
        id="an object with comments only",
    ),
    pytest.param(
        lines("{", '  "a": "}, // /* \\" ,",', r'  "\\": "\\" // "', "}"),
        ["b"],
        2,
        lines("{", '  "a": "}, // /* \\" ,",', r'  "\\": "\\", // "', '  "b": 2', "}"),
        id="strings and comments that look like marks",
    ),
    pytest.param(
        lines("{", r'  "\u0061gent": {', '    "x": 1', "  }", "}"),
        ["agent", "größe"],
        "groß",
        lines("{", r'  "\u0061gent": {', '    "x": 1,', '    "größe": "groß"', "  }", "}"),
        id="a key with an escape",
    ),
]

OPENINGS = [
    pytest.param("{}", ["a"], 1, '{\n  "a": 1\n}', id="an empty object"),
    pytest.param("{ }\r\n", ["a"], 1, '{\r\n  "a": 1\r\n}\r\n', id="an empty object with a blank"),
    pytest.param(
        "{ /* none */ }\n", ["a"], 1, lines("{", "  /* none */", '  "a": 1', "}"), id="a comment"
    ),
    pytest.param(
        lines("// mine", '{"$schema": "x", /* one */ "y": [1, 2], }'),
        ["hub"],
        {"on": True},
        lines(
            "// mine",
            "{",
            '  "$schema": "x",',
            '  /* one */ "y": [1, 2],',
            '  "hub": {',
            '    "on": true',
            "  },",
            "}",
        ),
        id="an object on one line that gets an object",
    ),
    pytest.param(
        lines("{", '   "a": 1, // note', '   "mcp": {},', "}"),
        ["mcp", "hub"],
        HUB,
        lines(
            "{",
            '   "a": 1, // note',
            '   "mcp": {',
            '      "hub": {',
            '         "type": "local",',
            '         "command": [',
            '            "agenthub",',
            '            "mcp"',
            "         ]",
            "      }",
            "   },",
            "}",
        ),
        id="an empty object in an indented one",
    ),
]

CREATIONS = [
    pytest.param(
        lines("{", '  "a": 1 // note', "}"),
        ["mcp", "hub", "on"],
        True,
        lines(
            "{",
            '  "a": 1, // note',
            '  "mcp": {',
            '    "hub": {',
            '      "on": true',
            "    }",
            "  }",
            "}",
        ),
        id="missing objects",
    ),
]

REPLACEMENTS = [
    pytest.param(
        lines("{", '  "a": 1, // one', '  "b": 2', "}"),
        ["a"],
        "x",
        lines("{", '  "a": "x", // one', '  "b": 2', "}"),
        id="a scalar",
    ),
    pytest.param(
        lines("{", '\t"hub": {', '\t\t"type": "remote" // theirs', "\t}, // ours", "}"),
        ["hub"],
        HUB,
        lines(
            "{",
            '\t"hub": {',
            '\t\t"type": "local",',
            '\t\t"command": [',
            '\t\t\t"agenthub",',
            '\t\t\t"mcp"',
            "\t\t]",
            "\t}, // ours",
            "}",
        ),
        id="an object over several lines",
    ),
    pytest.param(
        lines("{", '  "plugin": ["x"],', "}"),
        ["plugin"],
        ["x", "y"],
        lines("{", '  "plugin": ["x", "y"],', "}"),
        id="a list on one line",
    ),
    pytest.param(
        lines("{", '  "hub": {}', "}"),
        ["hub"],
        {"on": True},
        lines("{", '  "hub": {', '    "on": true', "  }", "}"),
        id="an empty object",
    ),
    pytest.param(
        '{"a": 1, "b": 2, "\\u0061": 3}',
        ["a"],
        4,
        '{"a": 1, "b": 2, "\\u0061": 4}',
        id="the duplicate that counts",
    ),
    pytest.param(
        '{"a": {"x": 1}, "a": {"x": 2}}',
        ["a", "x"],
        3,
        '{"a": {"x": 1}, "a": {"x": 3}}',
        id="inside the duplicate that counts",
    ),
]

REMOVALS = [
    pytest.param(
        lines("{", '  "a": 1, // one', '  "b": 2, // two', '  "c": 3 // three', "}"),
        ["b"],
        lines("{", '  "a": 1, // one', '  "c": 3 // three', "}"),
        id="between others, with its comment",
    ),
    pytest.param(
        lines("{", '  "a": 1, // one', "  // about b", '  "b": 2 // two', "  // below", "}"),
        ["b"],
        lines("{", '  "a": 1 // one', "  // about b", "  // below", "}"),
        id="the last, but not the comments on other lines",
    ),
    pytest.param(
        lines("{", '  "a": 1,', "", '  "b": {', '    "x": 1', "  },", "}"),
        ["b"],
        lines("{", '  "a": 1,', "", "}"),
        id="the last with a trailing comma",
    ),
    pytest.param(
        lines("{", '  "a": { // note', '    "x": 1', "  }", "}"),
        ["a"],
        lines("{", "}"),
        id="the only one",
    ),
    pytest.param(
        lines('{ "a": 1, // one', '  "b": 2 }'), ["a"], lines("{", '  "b": 2 }'), id="the first"
    ),
    pytest.param(
        lines('{ "a": 1, // one', '  "b": 2 }'),
        ["b"],
        lines('{ "a": 1 // one', " }"),
        id="the last, below a comment that would swallow the brace",
    ),
    pytest.param(
        lines('{ "a": 1, // one', '  "b": 2, }'),
        ["b"],
        lines('{ "a": 1, // one', " }"),
        id="the last, below such a comment, with a trailing comma",
    ),
    pytest.param(
        lines("{", '  "a": 1, /* of two', "  lines */", '  "b": 2', "}"),
        ["a"],
        lines("{", "  /* of two", "  lines */", '  "b": 2', "}"),
        id="but not a comment that goes on",
    ),
    pytest.param(
        lines('{ "a": 1', ', "b": 2 // two', ', "c": 3', "}"),
        ["b"],
        lines('{ "a": 1', ', "c": 3', "}"),
        id="where commas lead the lines",
    ),
    pytest.param(
        lines('{ "a": 1', ', "b": 2', "}"), ["a"], lines("{", ' "b": 2', "}"), id="the first there"
    ),
    pytest.param(
        lines('{ "a": 1', ', "b": 2', "}"), ["b"], lines('{ "a": 1', "}"), id="the last there"
    ),
    pytest.param('{"a": 1, "b": 2, "c": 3}', ["a"], '{"b": 2, "c": 3}', id="one line, the first"),
    pytest.param('{"a": 1, "b": 2, "c": 3}', ["b"], '{"a": 1, "c": 3}', id="one line, the middle"),
    pytest.param('{ "a": 1, "b": 2 }', ["b"], '{ "a": 1 }', id="one line, the last"),
    pytest.param('{"a": 1, "b": 2, }', ["b"], '{"a": 1, }', id="one line, a trailing comma"),
    pytest.param(
        '{"a": 1, "b": 2 /* two */}', ["b"], '{"a": 1}', id="one line, the last with its comment"
    ),
    pytest.param(
        lines("{", '  "a": 1, "b": 2,', "}"), ["b"], lines("{", '  "a": 1,', "}"), id="half a line"
    ),
    pytest.param(
        '\ufeff{\r\n  "a": 1,\r\n  "b": 2\r\n}\r\n',
        ["b"],
        '\ufeff{\r\n  "a": 1\r\n}\r\n',
        id="line breaks of Windows, a byte order mark",
    ),
    pytest.param(
        lines("{", '  "a": 1,', '  "b": 2,', r'  "\u0061": 3', "}"),
        ["a"],
        lines("{", '  "b": 2', "}"),
        id="duplicates",
    ),
    pytest.param('{"a": 1,}', ["b"], '{"a": 1,}', id="nothing where it is not there"),
    pytest.param('{"a": 1,}', ["a", "b"], '{"a": 1,}', id="nothing where no object is"),
    pytest.param("[1]", ["a"], "[1]", id="nothing where there are no keys"),
]


@pytest.mark.parametrize(
    ("before", "path", "value", "after"), ADDITIONS + OPENINGS + CREATIONS + REPLACEMENTS
)
def test_a_value_is_put_in_the_style_of_the_text(
    before: str, path: list[str], value: object, after: str
) -> None:
    assert jsonc.put(before, path, value) == after


@pytest.mark.parametrize(
    ("before", "path", "value", "after"), ADDITIONS + OPENINGS + CREATIONS + REPLACEMENTS
)
def test_what_is_there_already_is_left_as_it_is(
    before: str,  # noqa: ARG001
    path: list[str],
    value: object,
    after: str,
) -> None:
    assert jsonc.put(after, path, value) == after


@pytest.mark.parametrize(("before", "path", "value", "after"), ADDITIONS)
def test_what_was_added_can_be_removed_without_a_trace(
    before: str, path: list[str], value: object, after: str
) -> None:
    assert jsonc.remove(after, path) == before
    assert jsonc.loads(jsonc.put(before, path, value)) != jsonc.loads(before)


@pytest.mark.parametrize(("before", "path", "after"), REMOVALS)
def test_a_member_is_removed_with_its_comma_and_its_line(
    before: str, path: list[str], after: str
) -> None:
    assert jsonc.remove(before, path) == after


LISTS = [
    pytest.param(
        lines("{", '  "plugin": [', '    "a", // mine', "    // the last", '    "b"', "  ]", "}"),
        lines(
            "{",
            '  "plugin": [',
            '    "a", // mine',
            "    // the last",
            '    "b",',
            '    "x"',
            "  ]",
            "}",
        ),
        id="lines of their own",
    ),
    pytest.param(
        lines("{", '  "plugin": [', '    ["a", {"b": 1}], // mine', "  ],", "}"),
        lines("{", '  "plugin": [', '    ["a", {"b": 1}], // mine', '    "x",', "  ],", "}"),
        id="a trailing comma",
    ),
    pytest.param(
        lines("{", '  "plugin": [', '    "a" // mine', "  ]", "}"),
        lines("{", '  "plugin": [', '    "a", // mine', '    "x"', "  ]", "}"),
        id="a comment after the last element",
    ),
    pytest.param('{"plugin": ["a"]}', '{"plugin": ["a", "x"]}', id="one line"),
    pytest.param(
        '{"plugin": ["a" /* mine */], "b": 1}',
        '{"plugin": ["a", /* mine */ "x"], "b": 1}',
        id="one line with a comment",
    ),
    pytest.param(
        '\ufeff{\r\n\t"plugin": [\r\n\t]\r\n}',
        '\ufeff{\r\n\t"plugin": [\r\n\t\t"x"\r\n\t]\r\n}',
        id="an empty list over two lines, of Windows, with tabs",
    ),
    pytest.param(
        lines("{", '  "a": 1 // one', "}"),
        lines("{", '  "a": 1, // one', '  "plugin": [', '    "x"', "  ]", "}"),
        id="no list",
    ),
]


@pytest.mark.parametrize(("before", "after"), LISTS)
def test_an_element_is_added_in_the_style_of_the_list_and_taken_out_without_a_trace(
    before: str, after: str
) -> None:
    assert jsonc.append(before, ["plugin"], "x") == after
    assert jsonc.append(after, ["plugin"], "x") == after
    left = jsonc.discard(after, ["plugin"], "x")
    assert (left if '"plugin"' in before else jsonc.remove(left, ["plugin"])) == before


def test_an_empty_list_on_one_line_is_opened_and_keeps_its_comment() -> None:
    after = lines("{", '  "plugin": [', "    /* none */", '    "x"', "  ]", "}")
    assert jsonc.append(lines("{", '  "plugin": [/* none */]', "}"), ["plugin"], "x") == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('["x", "a", "x"]', '["a"]'),
        ('["x", ["x"]]', '[["x"]]'),
        ('["a", 1, true]', '["a", 1, true]'),
        ('["a",\n // note\n "x"]', '["a"\n // note\n]'),
    ],
)
def test_only_what_is_that_element_is_taken_out(before: str, after: str) -> None:
    assert jsonc.discard(f'{{"plugin": {before}}}', ["plugin"], "x") == f'{{"plugin": {after}}}'


@pytest.mark.parametrize("edit", [jsonc.append, jsonc.discard])
def test_what_is_no_list_has_no_elements(edit: Callable[[str, list[str], object], str]) -> None:
    with pytest.raises(JsoncError, match="line 1, column 12: expected a list at 'plugin'"):
        edit('{"plugin": "x"}', ["plugin"], "x")


def test_an_equal_value_keeps_the_comments_inside_it() -> None:
    text = lines("{", '  "hub": { // ours', '    "on": true, // for now', "  },", "}")
    assert jsonc.put(text, ["hub"], {"on": True}) == text


@pytest.mark.parametrize(("old", "new"), [("1", True), ("0", False), ("1.0", 1), ("1", 1.0)])
def test_values_that_only_python_holds_equal_are_replaced(old: str, new: object) -> None:
    assert jsonc.put(f'{{"a": {old}}}', ["a"], new) == f'{{"a": {json.dumps(new)}}}'


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\ufeff", "the file is empty"),
        (" \n// nothing\n/* here */", "the file is empty"),
        ('{\n\n  "a": }', "line 3, column 8: expected a value, found '}'"),
        ('{\r\n\r  "a": }', "line 3, column 8: expected a value, found '}'"),
        ('\ufeff{"a" 1}', "line 1, column 6: expected ':', found '1'"),
        ('{"a": 1 "b": 2}', "line 1, column 9: expected ',' or '}', found '\"b\"'"),
        ("{'a': 1}", "line 1, column 2: expected a key in double quotes or '}', found \"'a'\""),
        ("{,}", "line 1, column 2: expected a key in double quotes or '}', found ','"),
        (
            '{"a": 1,',
            "line 1, column 9: expected a key in double quotes or '}', found the end of the file",
        ),
        ("[1 2]", "line 1, column 4: expected ',' or ']', found '2'"),
        ("[,]", "line 1, column 2: expected a value, found ','"),
        ("[1,,]", "line 1, column 4: expected a value, found ','"),
        ("[", "line 1, column 2: expected a value, found the end of the file"),
        ("{} {}", "line 1, column 4: expected the end of the file, found '{'"),
        ("{}\n// fine\nnot this", "line 3, column 1: expected the end of the file, found 'not'"),
        ("[1, /* 2]", "line 1, column 5: expected a comment that ends in '*/', found '/*'"),
        ("[1, / 2]", "line 1, column 5: expected a value, found '/'"),
        ("tru", "line 1, column 1: expected a value, found 'tru'"),
        ("NaN", "line 1, column 1: expected a number that JSON can hold, found 'NaN'"),
        ("-Infinity", "line 1, column 1: expected a number that JSON can hold, found '-Infinity'"),
        ("1e999", "line 1, column 1: expected a number that JSON can hold, found '1e999'"),
        (
            "9" * 5000,
            f"line 1, column 1: expected a number that JSON can hold, found '{'9' * 30}'",
        ),
        ("01", "line 1, column 2: expected the end of the file, found '1'"),
        ('["a\n"]', "line 1, column 4: expected a valid string, found '\\n'"),
        ('["a\x00"]', "line 1, column 4: expected a valid string, found '\\x00'"),
        ('["a]', "line 1, column 2: expected a valid string, found '\"a]'"),
        (r'["a\x"]', r"line 1, column 4: expected a valid string, found '\\x'"),
        ("[" * 201, "line 1, column 201: expected at most 200 levels of nesting, found '['"),
        (
            '{"a":' * 100_000,
            "line 1, column 1001: expected at most 200 levels of nesting, found '{'",
        ),
    ],
)
def test_an_error_tells_where_and_what(text: str, message: str) -> None:
    with pytest.raises(JsoncError) as error:
        jsonc.loads(text)
    assert str(error.value) == message
    with pytest.raises(JsoncError):
        jsonc.put(text, ["a"], 1)
    with pytest.raises(JsoncError):
        jsonc.remove(text, ["a"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "line 1, column 1: expected an object, found '['"),
        ('{\n  "mcp": "x"\n}', "line 2, column 10: expected an object at 'mcp', found '\"x\"'"),
    ],
)
def test_what_is_no_object_gets_no_members(text: str, message: str) -> None:
    with pytest.raises(JsoncError) as error:
        jsonc.put(text, ["mcp", "hub"], HUB)
    assert str(error.value) == message


def test_the_object_that_is_none_is_named_by_its_path() -> None:
    with pytest.raises(JsoncError, match=r"expected an object at 'mcp\.hub', found 'null'"):
        jsonc.put('{"mcp": {"hub": null}}', ["mcp", "hub", "on"], True)


def test_a_value_that_json_cannot_hold_is_not_written() -> None:
    with pytest.raises(JsoncError, match="a number that JSON can hold"):
        jsonc.put("{}", ["a"], float("nan"))


def test_a_result_that_would_not_read_back_is_an_error() -> None:
    with pytest.raises(JsoncError, match="would not read back"):
        jsonc.put("{}", ["a"], {1: "a number", "1": "a string"})


def test_nesting_up_to_the_limit_is_read() -> None:
    text = "[" * jsonc.DEPTH + "0" + "]" * jsonc.DEPTH
    assert json.dumps(jsonc.loads(text)) == text


def test_of_duplicate_keys_the_last_counts() -> None:
    assert jsonc.loads(r'{"a": 1, "b": 2, "\u0061": 3}') == {"a": 3, "b": 2}


# --------------------------------------------------------------------------------------- properties

any_text = st.text(st.characters(exclude_categories=[]), max_size=5)
names = st.sampled_from(["a", "b", "mcp", "//", '"', "{", "é"]) | any_text
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | any_text
scalars = scalars.filter(lambda value: value not in (float("inf"), float("-inf")))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(names, values, max_size=4)

blanks = st.sampled_from(["", " ", "  ", "\t", "\n", "\r\n", "\n\n  "])
remarks = st.text('ab "{}[]:,/*\\', max_size=6)
comments = remarks.map(lambda remark: f"//{remark}") | (remarks | st.just("\n")).map(
    lambda remark: f"/*{remark.replace('*', '')} */"
)
marks = st.text('{}[]:,"/*\\ab1-e. \n\r\t\ufeff')
line_breaks = st.sampled_from(["\n", "\r\n"])


class Writer:
    """Writes documents as a careless person might; `comments` are those that it has left."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.comments: list[str] = []

    def gap(self) -> str:
        text = self.draw(blanks)
        if self.draw(st.integers(0, 4)) == 0:
            comment = self.draw(comments)
            self.comments.append(comment)
            text += (
                comment
                + (self.draw(line_breaks) if comment.startswith("//") else "")
                + self.draw(blanks)
            )
        return text

    def string(self, text: str) -> str:
        return json.dumps(text, ensure_ascii=self.draw(st.booleans()))

    def write(self, value: object) -> str:
        if isinstance(value, dict):
            members = [
                self.string(key) + self.gap() + ":" + self.gap() + self.write(inner)
                for key, inner in value.items()
            ]
            return "{" + self.draw(line_breaks) + self.listed(members) + "}"
        if isinstance(value, list):
            return "[" + self.listed([self.write(inner) for inner in value]) + "]"
        return self.string(value) if isinstance(value, str) else json.dumps(value)

    def listed(self, items: list[str]) -> str:
        text = ",".join(self.gap() + item + self.gap() for item in items)
        return text + self.draw(st.sampled_from(["", ","] if items else [""])) + self.gap()


@st.composite
def written(draw: st.DrawFn, documents: st.SearchStrategy[Any]) -> tuple[Any, str, list[str]]:
    document, writer = draw(documents), Writer(draw)
    mark = draw(st.sampled_from(["", "\ufeff"]))
    text = mark + writer.gap() + writer.write(document) + writer.gap()
    return document, text, writer.comments


def objects_in(document: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = [
        found
        for key, value in document.items()
        if isinstance(value, dict)
        for found in objects_in(value, (*path, key))
    ]
    return [path, *inner]


def at(document: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


@quick
@given(written(values))
def test_any_text_reads_as_what_was_written(story: tuple[Any, str, list[str]]) -> None:
    document, text, _ = story
    assert json.dumps(jsonc.loads(text)) == json.dumps(document)


@quick
@given(written(objects), values, st.data())
def test_what_was_put_is_there_and_every_comment_too(
    story: tuple[dict[str, Any], str, list[str]], value: object, data: st.DataObject
) -> None:
    document, text, comments = story
    parent = data.draw(st.sampled_from(objects_in(document)))
    key = data.draw(names.filter(lambda name: name not in at(document, parent)))
    edited = jsonc.put(text, [*parent, key], value)
    at(document, parent)[key] = value
    assert json.dumps(jsonc.loads(edited)) == json.dumps(document)
    for comment in comments:
        assert edited.count(comment) >= text.count(comment)


@quick
@given(written(objects), values, st.data())
def test_put_and_remove_leave_no_trace(
    story: tuple[dict[str, Any], str, list[str]], value: object, data: st.DataObject
) -> None:
    document, text, _ = story
    parent = data.draw(st.sampled_from(objects_in(document)))
    key = data.draw(names.filter(lambda name: name not in at(document, parent)))
    path = [*parent, key]
    assert jsonc.remove(jsonc.put(text, path, value), path) == text


@quick
@given(objects.filter(bool), names, scalars)
def test_put_and_remove_leave_no_trace_on_one_line(
    document: dict[str, Any], key: str, value: object
) -> None:
    text = json.dumps(document)
    if key not in document:
        assert jsonc.remove(jsonc.put(text, [key], value), [key]) == text


@quick
@given(written(st.fixed_dictionaries({"plugin": st.lists(values, min_size=1)})), names)
def test_append_and_discard_leave_no_trace(
    story: tuple[dict[str, Any], str, list[str]], value: str
) -> None:
    document, text, _ = story
    if value not in document["plugin"]:
        longer = jsonc.append(text, ["plugin"], value)
        assert jsonc.discard(longer, ["plugin"], value) == text


@quick
@given(written(objects.filter(bool)), values, st.data())
def test_any_member_can_be_replaced_and_removed(
    story: tuple[dict[str, Any], str, list[str]], value: object, data: st.DataObject
) -> None:
    document, text, _ = story
    filled = [path for path in objects_in(document) if at(document, path)]
    parent = data.draw(st.sampled_from(filled))
    key = data.draw(st.sampled_from(sorted(at(document, parent))))
    replaced = jsonc.put(text, [*parent, key], value)
    at(document, parent)[key] = value
    assert json.dumps(jsonc.loads(replaced)) == json.dumps(document)
    del at(document, parent)[key]
    assert json.dumps(jsonc.loads(jsonc.remove(text, [*parent, key]))) == json.dumps(document)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    _, text, _ = draw(written(objects))
    start, end = draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))
    return text[:start] + text[end:]


@quick
@given(damaged() | marks | any_text, st.lists(names, min_size=1, max_size=3))
def test_any_text_gives_a_value_or_an_error(text: str, path: list[str]) -> None:
    with suppress(JsoncError):
        jsonc.loads(text)
    with suppress(JsoncError):
        jsonc.put(text, path, HUB)
    with suppress(JsoncError):
        jsonc.remove(text, path)
