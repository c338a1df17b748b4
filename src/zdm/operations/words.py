"""The words of SQL text, by sqlglot's tokenizer of PostgreSQL: strings, quoted names, comments and function bodies are never mistaken for keywords.

To import sqlglot is a tenth of the time that zdm takes to start, so this module is imported where a text is read.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import TokenError
from sqlglot.tokenizer_core import Token, TokenType

_STRINGS = frozenset(
    {
        TokenType.STRING,
        TokenType.HEREDOC_STRING,
        TokenType.RAW_STRING,
        TokenType.NATIONAL_STRING,
        TokenType.BYTE_STRING,
        TokenType.BIT_STRING,
        TokenType.HEX_STRING,
        TokenType.UNICODE_STRING,
    }
)


class _Tokenizer(Postgres.Tokenizer):
    """PostgreSQL's tokens, all of them: sqlglot keeps what follows VACUUM, LOCK … as one piece otherwise."""

    COMMANDS: ClassVar[set[TokenType]] = set()


class Word(NamedTuple):
    """One token.

    Parameters
    ----------
    shape: in capitals; a string is ``'?'``, a quoted name is ``"?"``.
    written: as it stands in the text, a name with its quotes.
    start / end: its first character, and the one after its last.
    """

    shape: str
    written: str
    start: int
    end: int


def statements(text: str) -> list[list[Word]]:
    """The words of each statement, without the semicolons between them. Raises ValueError if the text cannot be read."""
    try:
        tokens = list(_Tokenizer(dialect="postgres").tokenize(text))
    except TokenError as error:
        raise ValueError(f"{text!r} cannot be read as SQL: {error}") from error
    found: list[list[Word]] = [[]]
    for token in tokens:
        if token.token_type is TokenType.SEMICOLON:
            found.append([])
        else:
            found[-1].append(_word(token))
    return [one for one in found if one]


def _word(token: Token) -> Word:
    shape, written = token.text.upper(), token.text
    if token.token_type in _STRINGS:
        shape = "'?'"
    elif token.token_type is TokenType.IDENTIFIER:
        shape, written = '"?"', '"' + token.text.replace('"', '""') + '"'
    return Word(shape, written, token.start, token.end + 1)
