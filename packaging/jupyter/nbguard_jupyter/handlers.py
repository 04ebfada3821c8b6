"""What the pages ask. Read-only, for whoever may use this server and nobody else."""

import json
import socket

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

from . import view


class GuardHandler(APIHandler):
    auth_resource = "nbguard"
    # A page that refreshes itself is no sign that somebody works here: the server must still
    # count as idle, and be culled.
    _track_activity = False

    def initialize(self, figures):
        self.figures = figures

    def answer(self, value):
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(value))


class StatusHandler(GuardHandler):
    @web.authenticated
    @authorized
    async def get(self):
        await self.figures.fresh()
        self.answer(self.figures.status())


class IncidentsHandler(GuardHandler):
    @web.authenticated
    @authorized
    async def get(self):
        await self.figures.fresh()
        self.answer({"state": self.figures.state, "incidents": self.figures.incidents})


class ResourceUsageHandler(GuardHandler):
    """jupyter-resource-usage's front ends ask here. Without a guard they are told of no figures,
    not of an error: that would be a line in the server's log every 5 s and tab."""

    @web.authenticated
    @authorized
    async def get(self):
        await self.figures.fresh()
        self.answer(view.resource_usage(self.figures.container))


class KernelUsageHandler(GuardHandler):
    @web.authenticated
    @authorized
    async def get(self, kernel_id):
        await self.figures.fresh()
        self.answer(view.kernel_usage(self.figures.container, kernel_id, socket.gethostname()))


def routes(base_url, figures, resource_usage):
    given = {"figures": figures}
    paths = [("nbguard/api/status", StatusHandler), ("nbguard/api/incidents", IncidentsHandler)]
    if resource_usage:
        paths += [("api/metrics/v1", ResourceUsageHandler),
                  ("api/metrics/v1/kernel_usage/get_usage/([^/]+)", KernelUsageHandler)]
    return [(url_path_join(base_url, path), handler, given) for path, handler in paths]
