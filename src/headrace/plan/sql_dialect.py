"""Flink SQL as headrace reads it: from text to tokens, and from tokens to one tree.

Calls stay calls (the dialect knows no function by name), so the function table alone says what exists.
"""

from __future__ import annotations

import re
from itertools import pairwise

from sqlglot import exp, generator, parser, tokens
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, TokenError
from sqlglot.tokenizer_core import Token, TokenType

from headrace.errors import PlanError
from headrace.plan.schema import Type, parse_type

__all__ = ["Headrace", "first_line", "quoted", "tokens_of", "tree_of", "type_of"]


class Headrace(Dialect):
    """Flink SQL as headrace reads it."""

    class Tokenizer(tokens.Tokenizer):  # noqa: D106
        QUOTES = ["'"]
        IDENTIFIERS = ["`", '"']
        COMMANDS = set()  # a text that begins with a column `show` or `fetch` is no statement

    class Parser(parser.Parser):  # noqa: D106
        STATEMENT_PARSERS = {}
        FUNCTIONS = {}
        NO_PAREN_FUNCTIONS = {}
        FUNCTION_PARSERS = {name: parser.Parser.FUNCTION_PARSERS[name] for name in ("CAST", "POSITION", "TRY_CAST")}
        NO_PAREN_FUNCTION_PARSERS = {"CASE": parser.Parser.NO_PAREN_FUNCTION_PARSERS["CASE"]}

    class Generator(generator.Generator):  # noqa: D106
        TYPE_MAPPING = {**generator.Generator.TYPE_MAPPING, exp.DType.TEXT: "STRING", exp.DType.TIMESTAMPLTZ: "TIMESTAMP_LTZ"}


def first_line(error: ParseError | TokenError) -> str:
    """Return what sqlglot's parser says, without colours and without names of its own."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return plain.splitlines()[0].rstrip(".").replace("<class 'sqlglot.expressions.", "").replace("'>", "")


_JOINED = re.compile(r"[\d.]+[eE]\d+(?=[+-])")


def tokens_of(dialect: Dialect, text: str) -> tuple[str, list[Token]]:
    """Return the tokens, and the text with a blank behind each number that the tokenizer joined with the sum that follows, as in `1e3+2`."""
    while True:
        found = dialect.tokenize(text)
        numbers = [token for token in found if token.token_type == TokenType.NUMBER]
        cuts = [number.start + joined.end() for number in numbers if (joined := _JOINED.match(number.text))]
        if not cuts:
            return text, found
        for cut in reversed(cuts):
            text = f"{text[:cut]} {text[cut:]}"


# The parser would pass over an argument that is not there.
_GAPS = {
    (TokenType.COMMA, TokenType.COMMA), (TokenType.COMMA, TokenType.R_PAREN), (TokenType.COMMA, TokenType.ALIAS),
    (TokenType.L_PAREN, TokenType.COMMA), (TokenType.L_PAREN, TokenType.ALIAS),
}  # fmt: skip


def tree_of(dialect: Dialect, found: list[Token], text: str) -> exp.Expression:
    """Return the tree of the one expression that tokens are."""
    for one, other in pairwise(token.token_type for token in found):
        if (one, other) in _GAPS:
            raise PlanError("lacks an argument beside a comma")
    trees = [tree for tree in dialect.parser().parse(found, text) if tree is not None]
    if len(trees) != 1:
        raise PlanError("holds no expression" if not trees else "holds more than one expression", fix="write one expression, with no ';'")
    (tree,) = trees
    assert isinstance(tree, exp.Expression)
    return tree


_WORD = re.compile(r"\w+")


def quoted(found: list[Token], names: set[str], syntax: frozenset[str]) -> list[Token]:
    """Make identifiers of the words that are columns, so that any column name may stand unquoted, and names of those behind a colon."""
    fixed = []
    for position, token in enumerate(found):
        called = position + 1 < len(found) and found[position + 1].token_type == TokenType.L_PAREN
        literal = token.token_type in (TokenType.STRING, TokenType.NUMBER)
        if not literal and position > 0 and found[position - 1].token_type == TokenType.COLON:
            fixed.append(_as(TokenType.VAR, token))
        elif token.text in names and _WORD.fullmatch(token.text) and not (called or literal) and token.text.upper() not in syntax:
            fixed.append(_as(TokenType.IDENTIFIER, token))
        else:
            fixed.append(token)
    return fixed


def _as(kind: TokenType, token: Token) -> Token:
    return Token(kind, token.text, token.line, token.col, token.start, token.end, token.comments)


def type_of(cast: exp.Cast) -> Type:
    """Return the type that a cast names."""
    return parse_type(cast.args["to"].sql(dialect=Headrace))
