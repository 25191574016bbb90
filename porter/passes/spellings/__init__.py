"""Other ways to write standard operators, for front ends that lack one: a table of small functions.

A spelling gives the very numbers of its operator, or numbers as near to the true ones: those that round were measured
(tests/passes/test_spellings.py). It gives None for a node that it does not fit.
"""

from __future__ import annotations

from porter.passes.spellings import arithmetic, logic, shapes
from porter.passes.spellings.place import SPELLINGS, Dimensions, Place, Spelling

__all__ = ["SPELLINGS", "Dimensions", "Place", "Spelling", "arithmetic", "logic", "shapes"]
