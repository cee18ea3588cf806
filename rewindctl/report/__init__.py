"""From runs to numbers a paper prints: tidy frame, cells, tables, figures."""
