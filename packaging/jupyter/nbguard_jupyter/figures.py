"""The last figures, and when the guard is asked for new ones.

However many pages are open, the guard is asked once per period; and when nobody looks, never.
A guard that is not there is asked less and less often. What is said about it is said once.
"""

import asyncio
import time

from . import guard, view

# Of the period: a page that asks a little early gets new figures, not its last ones again.
EARLY = 0.1
# Seconds. A guard that comes back is seen after so long at the latest.
LONGEST_WAIT = 30.0
# Seconds. Incidents are asked for with the figures while something happens, and else so often:
# the guard reads them from a file.
INCIDENTS_WAIT = 30.0
# Seconds after a change. A record is written when its episode ended, some seconds after the kill.
LIVELY = 20.0


class Figures:
    """What is known, and from when."""

    def __init__(self, socket, period, places, sessions, log, hide_foreign=False):
        self.socket = socket
        self.period = period
        self.places = places
        self.sessions = sessions
        self.log = log
        self.hide_foreign = hide_foreign
        self.state = "unknown"
        self.detail = None
        self.container = None
        self.incidents = []
        self.asked = 0
        self.taken = None
        self._next = 0.0
        self._failures = 0
        self._incidents_due = 0.0
        self._lively_until = 0.0
        self._identities = None
        # asyncio itself holds tasks by weak references only.
        self._task = None

    def refresh(self):
        """Starts a question if one is due. Returns the task that is under way, or None."""
        if self._task is None and time.monotonic() >= self._next:
            self._task = asyncio.ensure_future(self._ask())
            self._task.add_done_callback(self._asked)
        return self._task

    async def fresh(self):
        """Returns when the figures are of this period."""
        task = self.refresh()
        if task is not None:
            # Whoever waits may be cancelled; the others still want the answer.
            await asyncio.shield(task)

    def age(self):
        return None if self.taken is None else time.monotonic() - self.taken

    def status(self):
        """For the pages."""
        return {
            "state": self.state,
            "detail": self.detail,
            "period": self.period,
            "age": self.age(),
            "container": self.container,
            "incidents": self.incidents,
        }

    def _asked(self, _):
        self._task = None

    async def _ask(self):
        began = time.monotonic()
        self.asked += 1
        try:
            await self._take(began)
        except Exception as error:  # no page may see one, nor may the next question fail to come
            self._failures += 1
            self.container = None
            wait = self.period * 2 ** min(self._failures - 1, 10)
            self._next = began + min(wait, max(LONGEST_WAIT, self.period))
            self._became(getattr(error, "kind", guard.TROUBLE), str(error) or repr(error))
            return
        self._failures = 0
        self._next = began + self.period * (1 - EARLY)
        self.taken = time.monotonic()
        self._became("ok", None)

    async def _take(self, now):
        answer = await guard.ask(self.socket, "/api/v1/containers")
        sessions = await self._sessions()
        if sessions is not None:
            self.places.learn(sessions)
        self.container = view.container(answer, self.places, self.hide_foreign)
        if self.container is None:
            raise guard.Trouble(guard.NOT_WATCHED, "the guard names no container")
        await self._ask_incidents(now)

    async def _ask_incidents(self, now):
        identities = {(row["pid"], row["start"]) for row in self.container["notebooks"]}
        gone = self._identities is None or bool(self._identities - identities)
        self._identities = identities
        if gone or self.container["state"] != "quiet":
            self._lively_until = now + LIVELY
        if now < self._lively_until or now >= self._incidents_due:
            try:
                answer = await guard.ask(self.socket, "/api/v1/incidents?limit={}".format(view.INCIDENTS))
            except guard.Trouble as trouble:
                # The figures are good without.
                self.log.debug("nbguard: no incidents: %s", trouble)
                return
            self.incidents = view.incidents(answer, self.places, hide_foreign=self.hide_foreign)
            self._incidents_due = now + INCIDENTS_WAIT

    async def _sessions(self):
        try:
            return await self.sessions()
        except Exception as error:  # whatever session manager this server has
            self.log.debug("nbguard: the sessions could not be listed: %s", error)
            return None

    def _became(self, state, detail):
        self.detail = detail
        if state == self.state:
            return
        self.state = state
        if state == "ok":
            self.log.info("nbguard: the guard watches this container (%s)", self.container["mode"])
        elif state == guard.NO_GUARD:
            self.log.info("nbguard: no guard: %s", detail)
        else:
            self.log.warning("nbguard: no figures: %s", detail)
