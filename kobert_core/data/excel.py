"""Sheets of Excel's workbooks, row by row."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

from kobert_core.errors import InputError


def read_sheet(path: Path, sheet: str | None) -> Iterator[tuple[int, list[object]]]:
    """Number and cells of each row of a sheet, from the first row to the last with something in it; without empty cells
    at its end. A number is a text of what Excel shows, a formula what it last came to.

    Args:
        path: The workbook.
        sheet: Its name; the first one when not given.

    Raises:
        InputError: it is no workbook, or has no such sheet.
    """
    import openpyxl

    try:
        with warnings.catch_warnings(action="ignore"):  # of styles that openpyxl does not know
            workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from error
    except Exception as error:  # of all kinds: no ZIP, a ZIP without a workbook, broken XML
        fix = "save it as .xlsx, without a password"
        raise InputError(f"is not an Excel workbook ({error})", where=path, fix=fix) from error
    try:
        names = [each.title for each in workbook.worksheets]
        if sheet is not None and sheet not in names:
            what = f"there is no sheet {sheet!r}"
            raise InputError(what, where=path, fix=f"take {' or '.join(f':{name}' for name in names)}")
        rows = workbook.worksheets[names.index(sheet) if sheet else 0]
        rows.reset_dimensions()  # what some programs write there is wrong
        for number, cells in enumerate(rows.iter_rows(values_only=True), start=1):
            values = list(map(_value, cells))
            while values and values[-1] is None:
                values.pop()
            yield number, values
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the workbook is damaged ({error})", where=path, fix="save it again") from error
    finally:
        workbook.close()


def _value(cell: object) -> object:
    from openpyxl.utils.escape import unescape

    if isinstance(cell, str):
        return unescape(cell) if "_x" in cell else cell  # `_x000D_` is a line end in Excel's XML
    if cell is None or isinstance(cell, bool):
        return cell
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
