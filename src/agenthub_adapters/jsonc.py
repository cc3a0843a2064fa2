"""JSON and JSONC text, edited in place: what an edit does not concern stays as its owner wrote it.

JSONC is JSON with comments and trailing commas; a byte order mark may stand in front. What is added
follows the text's own line breaks, indentation and commas. An edit whose result would not read back
as intended is an error, never a damaged text. Knows nothing of files or of what the keys mean, and
leaves it to the caller to remove the objects and lists that `put` and `append` had to create.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from itertools import pairwise

from attrs import define, frozen

DEPTH = 200
"""Deepest nesting: more than a configuration needs, far from the interpreter's own limit."""

_BYTE_ORDER_MARK = "\ufeff"
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_COMMENT = r"(?P<line_comment>//[^\r\n]*)|/\*(?s:.*?)\*/"
_BLANK = re.compile(rf"(?:[ \t\r\n]+|{_COMMENT})*")
_BETWEEN = re.compile(rf"(?:[ \t\r\n,]+|{_COMMENT})*")
_TRAIL = re.compile(r"(?P<comments>(?:[ \t]*/\*[^\r\n]*?\*/)*(?:[ \t]*//[^\r\n]*)?)[ \t]*")
_TO_LINE_END = re.compile(r"(?:[ \t]*(?=[\r\n]))?")
_INDENTED = re.compile(r'^([ \t]+)"', re.MULTILINE)
_FOUND = re.compile(r'"[^"\r\n]{0,30}"?|[^\s{}\[\],:"]{1,30}|(?s:.)')


class JsoncError(Exception):
    """The text is not JSONC, or it does not have the shape that an edit needs."""


def loads(text: str) -> object:
    """The value of the text; of duplicate keys the last one counts."""
    return _parse(text.removeprefix(_BYTE_ORDER_MARK)).value


def put(text: str, path: Sequence[str], value: object) -> str:
    """The text with the value at a path of one or more keys, replaced there or added last.

    Objects that are missing on the way are created; whatever else is on the way is an error.
    """
    body = text.removeprefix(_BYTE_ORDER_MARK)
    edited = _put(body, path, value)
    _verify(edited, _with(_parse(body).value, path, value))
    return text[: len(text) - len(body)] + edited


def remove(text: str, path: Sequence[str]) -> str:
    """The text without the member at a path of one or more keys, and without its duplicates.

    Its comma goes with it, and so does a comment that trails it on its line.
    """
    edited = body = text.removeprefix(_BYTE_ORDER_MARK)
    while len(way := _way(_parse(edited), path)) == len(path):
        edited = _cut(edited, *way[-1])
    _verify(edited, _without(_parse(body).value, path))
    return text[: len(text) - len(body)] + edited


def append(text: str, path: Sequence[str], value: object) -> str:
    """The text with the value added last to the list at a path, if it is not in there.

    The list, and objects on the way, are created where they are missing.
    """
    edited = body = text.removeprefix(_BYTE_ORDER_MARK)
    node = _list_at(body, path)
    if node is None:
        return put(text, path, [value])
    elements = [member.node.value for member in node.members]
    if any(_same(each, value) for each in elements):
        return text
    if _is_cramped(body, node, value):
        edited = _opened(body, node)
        node = _list_at(edited, path) or node
    edited = _add(edited, node, "", value)
    _verify(edited, _with(_parse(body).value, path, [*elements, value]))
    return text[: len(text) - len(body)] + edited


def discard(text: str, path: Sequence[str], value: object) -> str:
    """The text without the value in the list at a path, cut out as `remove` cuts a member."""
    edited = body = text.removeprefix(_BYTE_ORDER_MARK)
    while node := _list_at(edited, path):
        found = [member for member in node.members if _same(member.node.value, value)]
        if not found:
            break
        edited = _cut(edited, node, found[-1])
    if node and edited != body:
        left = [member.node.value for member in node.members]
        _verify(edited, _with(_parse(body).value, path, left))
    return text[: len(text) - len(body)] + edited


# ------------------------------------------------------------------------------------------ reading


@frozen
class _Node:
    start: int
    end: int
    value: object
    members: tuple[_Member, ...] = ()


@frozen
class _Member:
    """Of an object, or of a list, where its key is its place."""

    key: object
    start: int
    node: _Node
    comma: int | None


@define
class _Parser:
    text: str
    at: int = 0

    def document(self) -> _Node:
        self._skip()
        if self.at == len(self.text):
            raise JsoncError("the file is empty")
        node = self._value(0)
        self._skip()
        if self.at < len(self.text):
            raise _expected("the end of the file", self.text, self.at)
        return node

    def _value(self, depth: int) -> _Node:
        self._skip()
        start = self.at
        if depth == DEPTH and self.text.startswith(("{", "["), start):
            raise _expected(f"at most {DEPTH} levels of nesting", self.text, start)
        if self._takes("{"):
            members = self._members(depth + 1)
            value = {member.key: member.node.value for member in members}
            return _Node(start, self.at, value, tuple(members))
        if self._takes("["):
            members = self._elements(depth + 1)
            elements = [member.node.value for member in members]
            return _Node(start, self.at, elements, tuple(members))
        return self._scalar()

    def _members(self, depth: int) -> list[_Member]:
        members: list[_Member] = []
        while not self._takes("}"):
            if members and members[-1].comma is None:
                raise _expected("',' or '}'", self.text, self.at)
            if not self.text.startswith('"', self.at):
                raise _expected("a key in double quotes or '}'", self.text, self.at)
            key = self._scalar()
            if not self._takes(":"):
                raise _expected("':'", self.text, self.at)
            node = self._value(depth)
            comma = self.at - 1 if self._takes(",") else None
            members.append(_Member(key.value, key.start, node, comma))
        return members

    def _elements(self, depth: int) -> list[_Member]:
        elements: list[_Member] = []
        while not self._takes("]"):
            if elements and elements[-1].comma is None:
                raise _expected("',' or ']'", self.text, self.at)
            node = self._value(depth)
            comma = self.at - 1 if self._takes(",") else None
            elements.append(_Member(len(elements), node.start, node, comma))
        return elements

    def _scalar(self) -> _Node:
        start = self.at
        try:
            value, self.at = json.JSONDecoder().raw_decode(self.text, start)
        except json.JSONDecodeError as error:
            what = "a valid string" if self.text.startswith('"', start) else "a value"
            raise _expected(what, self.text, error.pos) from None
        except ValueError:  # an integer of thousands of digits
            value = math.inf
        if isinstance(value, float) and not math.isfinite(value):
            raise _expected("a number that JSON can hold", self.text, start)
        return _Node(start, self.at, value)

    def _takes(self, mark: str) -> bool:
        self._skip()
        taken = self.text.startswith(mark, self.at)
        self.at += taken
        return taken

    def _skip(self) -> None:
        self.at = _match(_BLANK, self.text, self.at).end()
        if self.text.startswith("/*", self.at):
            raise _expected("a comment that ends in '*/'", self.text, self.at)


def _parse(text: str) -> _Node:
    return _Parser(text).document()


def _match(pattern: re.Pattern[str], text: str, at: int) -> re.Match[str]:
    """The match right there, of a pattern that is content with nothing."""
    return next(pattern.finditer(text, at))


def _expected(what: str, text: str, at: int) -> JsoncError:
    starts = [0, *(line_break.end() for line_break in _LINE_BREAK.finditer(text, 0, at))]
    there = _FOUND.match(text, at)
    found = repr(there[0]) if there else "the end of the file"
    place = f"line {len(starts)}, column {at - starts[-1] + 1}"
    return JsoncError(f"{place}: expected {what}, found {found}")


def _way(node: _Node, path: Sequence[str]) -> list[tuple[_Node, _Member]]:
    """The objects along the path, each with its member, as far as they are there."""
    way: list[tuple[_Node, _Member]] = []
    for key in path:
        member = next((each for each in reversed(node.members) if each.key == key), None)
        if not member:
            break
        way.append((node, member))
        node = member.node
    return way


def _list_at(text: str, path: Sequence[str]) -> _Node | None:
    way = _way(_parse(text), path)
    if len(way) < len(path):
        return None
    node = way[-1][1].node
    if not isinstance(node.value, list):
        raise _expected(f"a list at {'.'.join(path)!r}", text, node.start)
    return node


# ------------------------------------------------------------------------------------------ writing


def _put(text: str, path: Sequence[str], value: object) -> str:
    root = _parse(text)
    way = _way(root, path)
    node = way[-1][1].node if way else root
    if len(way) == len(path):
        return _replace(text, node, value)
    key, *inner = path[len(way) :]
    if not isinstance(node.value, dict):
        place = f" at {'.'.join(path[: len(way)])!r}" if way else ""
        raise _expected(f"an object{place}", text, node.start)
    added = _with({}, inner, value)
    if _is_cramped(text, node, added):
        return _put(_opened(text, node), path, value)
    return _add(text, node, f"{json.dumps(key, ensure_ascii=False)}: ", added)


def _replace(text: str, node: _Node, value: object) -> str:
    if _same(node.value, value):
        return text
    if _is_filled(node.value) and not _LINE_BREAK.search(text, node.start, node.end):
        new = json.dumps(value, ensure_ascii=False)
    else:
        new = _written(value, text, _indent(text, node.start))
    return text[: node.start] + new + text[node.end :]


def _add(text: str, parent: _Node, label: str, value: object) -> str:
    """The text with one more member, behind the label that it needs."""
    content = text[: parent.end - 1].rstrip(" \t\r\n")
    at = _match(_TO_LINE_END, text, len(content)).end()
    if _is_spread(text, parent):
        starts = [each.start for each in parent.members if _starts_line(text, each.start)]
        indent = _indent(text, starts[-1]) if starts else _indent(text, parent.start) + _unit(text)
        gap = _line_break(text) + indent
    else:
        indent, gap = _indent(text, at), " "
    new = f"{gap}{label}{_written(value, text, indent)}"
    if not parent.members:
        return text[:at] + new + text[at:]
    last = parent.members[-1]
    if last.comma is not None:
        return text[:at] + new + "," + text[at:]
    return text[: last.node.end] + "," + text[last.node.end : at] + new + text[at:]


def _opened(text: str, node: _Node) -> str:
    """The text with an object or list that is on one line spread over several."""
    commas = [member.comma + 1 for member in node.members if member.comma is not None]
    edges = [node.start + 1, *commas, node.end - 1]
    parts = (text[start:end].strip() for start, end in pairwise(edges))
    outer = _line_break(text) + _indent(text, node.start)
    inner = "".join(outer + _unit(text) + part for part in parts if part)
    return text[: node.start + 1] + inner + outer + text[node.end - 1 :]


def _cut(text: str, parent: _Node, member: _Member) -> str:
    """The text without the member and the comma that it no longer needs."""
    place = parent.members.index(member)
    before = parent.members[place - 1] if place else None
    start, end, comma = member.start, member.node.end, member.comma
    if comma is not None and not _LINE_BREAK.search(text, end, comma):
        end = comma + 1
    else:  # this is the last member, or commas lead the lines
        comma = before.comma if before else comma
        if comma is not None:
            text = text[:comma] + text[comma + 1 :]
            start, end = start - (comma < start), end - (comma < start)
    return _cut_span(text, start, end, before.node.end if before else parent.start + 1)


def _cut_span(text: str, start: int, end: int, gap: int) -> str:
    """The text without the span, what trails it, and its line if nothing else is on it.

    `gap` is where the blanks, comments and commas before it begin.
    """
    trail = _match(_TRAIL, text, end)
    follows = text[trail.end()]
    if follows not in "\r\n}]":
        return text[:start] + text[end:].lstrip(" \t")
    left = text[:start].rstrip(" \t")
    joined = left.removesuffix("\n").removesuffix("\r")
    if follows not in "}]":
        return joined + text[trail.end() :]
    # to join the lines is wrong only where a bracket would become part of a comment
    swallows = _match(_BETWEEN, text, gap).end("line_comment") == len(joined)
    return (left if swallows else joined) + text[trail.end("comments") :]


# -------------------------------------------------------------------------------------------- style


def _line_break(text: str) -> str:
    first = _LINE_BREAK.search(text)
    return first[0] if first else "\n"


def _unit(text: str) -> str:
    first = _INDENTED.search(text)
    return first[1] if first else "  "


def _indent(text: str, at: int) -> str:
    """The blanks that the line begins with."""
    line = text[max(text.rfind("\n", 0, at), text.rfind("\r", 0, at)) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _starts_line(text: str, at: int) -> bool:
    return text[:at].rstrip(" \t").endswith(("\n", "\r"))


def _written(value: object, text: str, indent: str) -> str:
    lines = json.dumps(value, indent=_unit(text), ensure_ascii=False)
    return lines.replace("\n", _line_break(text) + indent)


def _is_filled(value: object) -> bool:
    return isinstance(value, dict | list) and bool(value)


def _is_spread(text: str, node: _Node) -> bool:
    """Whether an object or list has its members on lines of their own."""
    ends = [node.start, *(member.node.end for member in node.members)]
    starts = [*(member.start for member in node.members), node.end]
    return any(_LINE_BREAK.search(text, *gap) for gap in zip(ends, starts, strict=True))


def _is_cramped(text: str, node: _Node, value: object) -> bool:
    """Whether an object or list has to be opened before it gets the value."""
    one_line = not _LINE_BREAK.search(text, node.start, node.end)
    return one_line and (not node.members or _is_filled(value))


# ----------------------------------------------------------------------------------------- intended


def _with(document: object, path: Sequence[str], value: object) -> object:
    if not path:
        return value
    members = document if isinstance(document, dict) else {}
    return {**members, path[0]: _with(members.get(path[0]), path[1:], value)}


def _without(document: object, path: Sequence[str]) -> object:
    if not isinstance(document, dict) or path[0] not in document:
        return document
    if len(path) == 1:
        return {key: value for key, value in document.items() if key != path[0]}
    return {**document, path[0]: _without(document[path[0]], path[1:])}


def _verify(edited: str, intended: object) -> None:
    if not _same(_parse(edited).value, intended):
        raise JsoncError("the edit would not read back as intended")


def _same(one: object, other: object) -> bool:
    return json.dumps(one) == json.dumps(other)  # unlike ==, tells 1 from 1.0 and from true
