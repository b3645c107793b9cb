"""Learns an embedding of faces and a classifier on it; the manifest is its only tie to cropping."""
