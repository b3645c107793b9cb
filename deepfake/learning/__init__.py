"""Learns an embedding of faces and a head on it; the manifest is its only tie to cropping."""
