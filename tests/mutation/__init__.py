"""Random mutants: the code is broken in places of nobody's choosing, and a test should fall.

`places` finds what can be broken, `selection` the tests that run a line, `trial` tries a mutant.
"""
