"""Embedded demonstration data, drawn by code so that it needs no download."""
