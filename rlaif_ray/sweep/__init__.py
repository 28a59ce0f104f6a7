"""Sweeps: many runs of one file over Ray Tune, on one store and one budget."""
