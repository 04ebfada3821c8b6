"""Shows in Jupyter what nbguard sees of this container, and why it ended a notebook.

The guard runs on the host. Its notebook socket, whose folder is mounted into the container, tells
whoever asks about the container it asks from, and no other.
"""

__version__ = "0.1.0"


def _jupyter_server_extension_points():
    return [{"module": "nbguard_jupyter"}]


def _load_jupyter_server_extension(server_app):
    # Not at import: the version is also read where there is no Jupyter.
    from .extension import load

    load(server_app)


# The name that jupyter_server before 2.0 looks for, and that some launchers still do.
load_jupyter_server_extension = _load_jupyter_server_extension
