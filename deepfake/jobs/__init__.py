"""The one engine of the long jobs: a list of inputs, cut into blocks, becomes shards, then tables.

    plan      all inputs in order, and the settings that decide the result
    blocks    runs of inputs; what is made of one depends on nothing but settings and inputs
    shards    the result of a block: a folder that stands whole, with a checksum over every file
    executor  whoever has the blocks filled: this process, or the nodes of a Ray cluster
    merge     the shards of several machines in one folder: the job that was never divided

Knows no face, no network and no table: it is handed a work that fills the folders of blocks.
"""
