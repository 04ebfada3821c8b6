"""Brings the parts together in a Jupyter server, and is what its configuration sees."""

import os

import prometheus_client
from jupyter_server.utils import ensure_async
from tornado.ioloop import IOLoop
from traitlets import Bool, Float, Unicode, default
from traitlets.config import Configurable

from . import handlers, metrics
from .figures import Figures
from .view import Places

RESOURCE_USAGE = "jupyter_resource_usage"


class NbGuard(Configurable):
    """Settings: c.NbGuard.… in jupyter_server_config.py, or --NbGuard.… as arguments."""

    socket = Unicode(
        help="The guard's notebook socket. From NBGUARD_SOCKET, else /run/nbguard/nbguard.sock.",
    ).tag(config=True)
    period = Float(
        5.0, min=1.0, max=3600.0,
        help="Seconds between two refreshes. The guard is asked no more often, however many pages are open.",
    ).tag(config=True)
    resource_usage = Bool(
        True,
        help="Serve jupyter-resource-usage's /api/metrics/v1 where its own server extension is off.",
    ).tag(config=True)
    hide_foreign = Bool(
        False,
        help="Leave out the names of notebooks that do not belong to this server, where several "
             "users share one container.",
    ).tag(config=True)

    @default("socket")
    def _default_socket(self):
        return os.environ.get("NBGUARD_SOCKET") or "/run/nbguard/nbguard.sock"


def load(server_app):
    settings = NbGuard(parent=server_app)
    manager = server_app.session_manager

    async def sessions():
        return await ensure_async(manager.list_sessions())

    root = getattr(server_app, "root_dir", None) or os.getcwd()
    figures = Figures(settings.socket, settings.period, Places(root), sessions, server_app.log,
                      settings.hide_foreign)
    compatible = settings.resource_usage and not is_enabled(server_app, RESOURCE_USAGE)
    if settings.resource_usage and not compatible:
        server_app.log.info(
            "nbguard: %s serves /api/metrics/v1 itself; to have the guard's figures there: "
            "jupyter server extension disable %s", RESOURCE_USAGE, RESOURCE_USAGE)
    web_app = server_app.web_app
    web_app.settings["nbguard_figures"] = figures
    web_app.add_handlers(".*$", handlers.routes(web_app.settings["base_url"], figures, compatible))
    metrics.register(figures, prometheus_client.REGISTRY)
    # Whether there is a guard is told at the start, not when the first page opens.
    IOLoop.current().add_callback(figures.refresh)


def is_enabled(server_app, name):
    return bool((getattr(server_app, "jpserver_extensions", None) or {}).get(name))
