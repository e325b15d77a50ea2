"""Makes other people's text safe in a CSV file that is opened in a spreadsheet.

Promises: no spreadsheet takes such a cell, or a part of it, for a formula, also where it splits lines at semicolons or
tabs instead of commas; `plain` gives back what was written. Knows nothing about tables.
"""

from __future__ import annotations

import re

_STARTS = r"=+\-@\uff1d\uff0b\uff0d\uff20"
"""Of a formula; spreadsheets take the full-width ones for the others."""
_FILLING = r'[ "\u00a0\u200b\ufeff]*'
"""What may stand before one: spaces are trimmed, and a quote opens a cell where lines are split at another place."""
# A spreadsheet that splits at semicolons does not see that the comma's cell is quoted.
_FORMULA = re.compile(rf"^(?='*[\t\r\n])|(?:^|[;|\t\r\n]){_FILLING}(?='*[{_STARTS}])")
_MARKED = re.compile(rf"^'(?='*[\t\r\n])|(?:^|[;|\t\r\n]){_FILLING}'(?='*[{_STARTS}])")


def safe(cell: str) -> str:
    """The cell, with an apostrophe before whatever would be a formula."""
    return _FORMULA.sub(lambda found: f"{found[0]}'", cell)


def plain(cell: str) -> str:
    """The inverse of `safe`."""
    return _MARKED.sub(lambda found: found[0][:-1], cell)
