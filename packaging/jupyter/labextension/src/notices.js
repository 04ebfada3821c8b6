// The notification after a kill: shown for the notebooks that are open here, until it was read.
// What was read is remembered by the incident's id in this browser, for all its windows.

const READ = 'nbguard-jupyter:read';
/** A container has not that many incidents; the list must not grow for ever. */
const READ_LIMIT = 500;
/** Milliseconds. A browser that never saw an older kill need not tell of it. */
const STALE = 7 * 24 * 3600 * 1000;

class Notices {
  /** `isOpen` tells whether a victim is a notebook that is open here. */
  constructor(lab, poll, isOpen) {
    this.lab = lab;
    this.poll = poll;
    this.isOpen = isOpen;
    // Incident → notification, and → whose it is.
    this.shown = new Map();
    this.names = new Map();
    this.lab.Notification.manager.changed.connect((_, change) => {
      if (change.type === 'removed') {
        for (const [incident, notification] of this.shown) {
          if (notification === change.notification.id) {
            this.read(incident);
          }
        }
      }
    });
    // Its × only hides a notification, without telling anybody. Whoever hides this one has read it.
    document.addEventListener('click', event => {
      const id = event.target.closest?.('.jp-Notification-Toast-Close')?.closest('.Toastify__toast')?.id;
      for (const [incident, notification] of this.shown) {
        if (id && notification === id) {
          this.read(incident);
        }
      }
    }, true);
    window.addEventListener('storage', event => {
      if (event.key === READ) {
        this.dismissRead();
      }
    });
    poll.listen(() => this.look());
  }

  remembered() {
    try {
      const ids = JSON.parse(localStorage.getItem(READ) || '[]');
      return Array.isArray(ids) ? ids : [];
    } catch {
      return [];
    }
  }

  read(...incidents) {
    const ids = this.remembered();
    const added = incidents.filter(id => !ids.includes(id));
    if (added.length) {
      try {
        localStorage.setItem(READ, JSON.stringify([...ids, ...added].slice(-READ_LIMIT)));
      } catch {
        // No room, or not allowed: it is read until the page is loaded again.
      }
    }
    this.dismissRead(incidents);
  }

  dismissRead(also = []) {
    const ids = [...this.remembered(), ...also];
    for (const [incident, notification] of [...this.shown]) {
      if (ids.includes(incident)) {
        this.shown.delete(incident);
        this.lab.Notification.dismiss(notification);
      }
    }
  }

  unread() {
    return [...this.shown.keys()];
  }

  look() {
    const ids = this.remembered();
    const told = new Set();
    for (const incident of this.poll.status?.incidents ?? []) {
      const victim = incident.victim;
      if (incident.dry_run || !victim || !this.isOpen(victim)) {
        continue;
      }
      // Of several for one notebook the newest is told; the others are in the list.
      const name = victim.path || victim.kernel_id;
      if (!told.has(name) && !ids.includes(incident.id) && !this.shown.has(incident.id)
        && Date.now() - new Date(incident.time) < STALE) {
        this.read(...this.unread().filter(id => this.names.get(id) === name));
        this.tell(incident, name);
      }
      told.add(name);
    }
  }

  tell(incident, name) {
    const victim = incident.victim;
    const figures = incident.figures ?? {};
    const by = incident.kind === 'kernel-oom' ? 'the kernel, out of memory' : 'the memory guard';
    // JupyterLab cuts messages at 140 characters. The rest is in the dialog.
    const message = `${short(called(victim), 30)} was ended by ${by}: its container was at `
      + `${percent(share(figures))} of ${bytes(figures.total)}, this notebook held ${bytes(victim.memory)}.`;
    const notification = this.lab.Notification.emit(message, 'error', {
      autoClose: false,
      actions: [{ label: 'Why?', caption: 'What happened, and why this notebook', callback: () => this.explain(incident) }],
    });
    this.shown.set(incident.id, notification);
    this.names.set(incident.id, name);
  }

  explain(incident) {
    const node = element('div', 'nbguard-account',
      element('p', 'nbguard-note', new Date(incident.time).toLocaleString()), ...account(incident),
      element('p', '', 'What it had in memory is lost. The file, and the output that it had until then, are not.'));
    void this.lab.showDialog({
      title: headline(incident),
      body: new this.lab.Widget({ node }),
      buttons: [this.lab.Dialog.okButton()],
    });
  }
}
