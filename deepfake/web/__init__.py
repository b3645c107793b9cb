"""The local page and the HTTP API: uploads in, the answers of the shared engine out.

    folder      the private folder of a server: locked, swept, emptied
    database    the SQLite file: transactions, and a count of changes
    sessions    who comes with which cookie
    queue       which files there are: their states and answers, whom they belong to
    store       queue and sessions on disk, with a folder for each file
    engine      lanes that take files from the queue: killable processes, one scorer a model
    frames      frames that are kept while a file is searched, for the page
    uploads     multipart bodies, streamed to disk within limits
    access      who may ask: token or password, sessions, Host and Origin, headers of every answer
    views       an answer as the API and the pages show it
    evidence    an answer as a zip
    completion  waits for files that lanes work on
    openapi     operations of the API, and its description for machines
    routes/     what is answered, a resource a file
    app         all routes behind the guard
    server      all of it behind one socket

Everything that a client sends is hostile: names are shown and never opened, bytes are decoded in
worker processes only.
"""
