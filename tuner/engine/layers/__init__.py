"""Layers in the form that a stack needs: the results of one slot do not depend on any other."""
