"""Packages that tests import and that a machine with a GPU may lack; the folder goes onto the path of the suite."""
