"""From a path to raw records: bytes, formats, tables, and where records lie."""
