"""Known trees and tables: what an input says about its photos and videos.

``labelling`` finds the inputs and recognises their layout; ``table`` reads a CSV; ``tree`` and the
modules named after data sets read a folder into ``facts``; ``facts`` turns identities into groups
and names of originals into links.
"""
