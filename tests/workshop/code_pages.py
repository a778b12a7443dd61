"""Text damaged as it is in circulation: UTF-8 read by another code page, once or twice, with its bytes kept or lost."""

import json
import unicodedata
from pathlib import Path

PAGES = ("cp1252", "latin-1", "cp1258", "cp1250", "cp1251", "cp1254", "cp874", "cp437", "cp850", "mac-roman")


def read_as(text: str, page: str, *, undefined: str = "kept") -> str:
    """UTF-8 as a reader of that code page shows it; bytes that the page does not define are kept, dropped or U+FFFD."""
    found = []
    for byte in text.encode():
        try:
            found.append(bytes([byte]).decode(page))
        except UnicodeDecodeError:
            found.append({"kept": chr(byte), "dropped": "", "replaced": "\ufffd"}[undefined])
    return "".join(found)


def vietnamese_lines(shared: Path, count: int) -> list[str]:
    """Answers of real data with Vietnamese letters, composed, one a line."""
    lines = []
    for line in (shared / "instruct" / "vi-alpaca-5000.jsonl").read_text(encoding="utf-8").splitlines():
        text = " ".join(unicodedata.normalize("NFC", json.loads(line)["response"]).split())[:200]
        if sum(character in "ăâđêôơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ" for character in text) >= 5:
            lines.append(text)
    return lines[:count]
