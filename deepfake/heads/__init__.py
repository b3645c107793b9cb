"""Classifiers on finished embeddings, their fitted state kept as tensors."""
