"""What the server answers, a resource a file: pages for people, an API for scripts, over one queue.

    submissions  files that come in: uploads, and paths of the server
    queue        all files of one client, and the models that work on them
    file         one file: its answer, its evidence, its explanation
    media        what is seen of one file: thumbnail, frames, crops, the video itself
    pages        pages for people, with their style and scripts

The API's routes are made of operations, and so is its description. Every request has passed the
guard and knows whom it is for; nobody learns that a file of somebody else exists. Decodes nothing.
"""
