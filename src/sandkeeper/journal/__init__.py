"""The heart: pipe, pump, segments, cursors; and what readers make of them: text, lines, records, queries."""
