"""Layers in the form that a stack needs: what one slot computes, no other slot can change."""
