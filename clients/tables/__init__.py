"""SQL, one module a table family. Every function takes an open cursor and can be run again after a lost connection.

``EMPTY(column)`` is written ``COALESCE(column, '') = ''``: it holds for text and for number columns alike, and in
strict mode too. Values of derived tables are never compared with text columns: their collations may differ.
"""
