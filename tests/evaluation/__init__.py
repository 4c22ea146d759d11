"""Tests of evaluation; a package, so that other rooms may have test files of the same names."""
