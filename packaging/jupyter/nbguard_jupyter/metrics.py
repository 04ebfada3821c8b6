"""The figures in the server's own /metrics.

Collecting asks nobody: the last figures are returned, and a question is started so that the next
scrape has newer ones.
"""

from prometheus_client.core import GaugeMetricFamily

# Each notebook is a series. The largest are shown.
SERIES = 50
LABEL = 200
# Seconds. Older figures would be told as if they were of now; the longest usual scrape interval
# is 2 minutes.
TOO_OLD = 150.0

# Named as in the guard's own metrics.
CONTAINER = (
    ("usage", "nbguard_container_usage_bytes", "Memory in use in this container, page cache included."),
    ("unreclaimable", "nbguard_container_unreclaimable_bytes", "The part of it that only an end gives back."),
    ("total", "nbguard_container_total_bytes", "The container's limit, or the host's memory."),
    ("warning", "nbguard_container_warning_bytes", "Where notebooks are warned."),
    ("threshold", "nbguard_container_threshold_bytes", "Where a notebook may be ended."),
    ("sum", "nbguard_container_notebooks_bytes", "The sum over all notebooks."),
    ("ratio", "nbguard_container_notebooks_ratio", "That sum as a share of the total."),
    ("notebooks_total", "nbguard_container_notebooks", "Notebooks in this container."),
)


class Collector:
    def __init__(self, figures):
        self.figures = figures

    def describe(self):
        # Without this the registry collects once to learn the names, which starts a question.
        return []

    def collect(self):
        figures = self.figures
        try:
            figures.refresh()
        except RuntimeError:
            # No event loop in this thread: somebody else's scrape, and the last figures have to do.
            pass
        up = figures.state == "ok"
        yield GaugeMetricFamily("nbguard_up", "Whether the guard watches this container.", float(up))
        age = figures.age()
        if not up or age is None or age > TOO_OLD:
            return
        yield GaugeMetricFamily("nbguard_figures_age_seconds", "How old the figures below are.", age)
        container = figures.container
        for key, name, help_ in CONTAINER:
            if container[key] is not None:
                yield GaugeMetricFamily(name, help_, container[key])
        memory = GaugeMetricFamily(
            "nbguard_notebook_bytes", "What the end of this notebook would give back.",
            labels=("notebook", "kernel_id"))
        seen = set()
        for row in container["notebooks"][:SERIES]:
            name = row["path"] or row["notebook"] or row["name"] or ""
            labels = (name[:LABEL], (row["kernel_id"] or str(row["pid"]))[:LABEL])
            if labels not in seen and row["memory"] is not None:
                seen.add(labels)
                memory.add_metric(labels, row["memory"])
        yield memory


def register(figures, registry):
    """Adds the figures to the registry, in the place of an earlier server's in this process."""
    global registered
    if registered is not None:
        old_registry, old = registered
        try:
            old_registry.unregister(old)
        except KeyError:
            pass
    collector = Collector(figures)
    registry.register(collector)
    registered = (registry, collector)


registered = None
