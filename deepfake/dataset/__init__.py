"""Data sets: labelled trees and tables, and what is built from them."""
