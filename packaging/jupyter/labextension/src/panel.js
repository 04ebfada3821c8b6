// The panel over the page: the container against its threshold, every notebook with its memory,
// and what happened. Whatever comes from the container is set as text, never as markup.

function element(name, className, ...content) {
  const node = document.createElement(name);
  if (className) {
    node.className = className;
  }
  node.append(...content.filter(part => part !== null && part !== undefined));
  return node;
}

/** A bar of the container's total: `mine` of it strong, what is in use besides lighter, the threshold a mark. */
function meter(container, mine) {
  const total = container.total || 1;
  const part = (className, from, size) => {
    const node = element('span', className);
    node.style.left = `${Math.min(100, (100 * from) / total)}%`;
    node.style.width = `${Math.max(0, Math.min(100 - (100 * from) / total, (100 * size) / total))}%`;
    return node;
  };
  const own = Math.min(mine || 0, used(container));
  const bar = element('span', `nbguard-meter nbguard-${level(container)}`,
    part('nbguard-mine', 0, own), part('nbguard-others', own, used(container) - own));
  if (container.threshold) {
    const mark = part('nbguard-mark', container.threshold, 0);
    mark.style.width = '';
    bar.append(mark);
  }
  bar.setAttribute('aria-hidden', 'true');
  return bar;
}

class Panel {
  constructor(poll, notices, isCurrent) {
    this.poll = poll;
    this.notices = notices;
    this.isCurrent = isCurrent;
    this.node = null;
    this.drawn = '';
    this.open = new Set();
  }

  toggle(anchor) {
    if (this.node) {
      this.close();
    } else {
      this.show(anchor);
    }
  }

  show(anchor) {
    this.anchor = anchor;
    this.node = element('div', 'nbguard-panel');
    this.node.setAttribute('role', 'dialog');
    this.node.setAttribute('aria-label', 'Memory of this container');
    this.node.tabIndex = -1;
    document.body.append(this.node);
    this.drawn = '';
    this.stop = this.poll.listen(() => this.draw());
    this.onKey = event => {
      if (event.key === 'Escape') {
        event.stopPropagation();
        this.close();
      }
    };
    this.onPress = event => {
      if (!this.node.contains(event.target) && !this.anchor.contains(event.target)) {
        this.close(false);
      }
    };
    this.onResize = () => this.place();
    document.addEventListener('keydown', this.onKey, true);
    document.addEventListener('pointerdown', this.onPress, true);
    window.addEventListener('resize', this.onResize);
    anchor.setAttribute('aria-expanded', 'true');
    this.node.focus();
  }

  close(focus = true) {
    if (!this.node) {
      return;
    }
    document.removeEventListener('keydown', this.onKey, true);
    document.removeEventListener('pointerdown', this.onPress, true);
    window.removeEventListener('resize', this.onResize);
    this.stop();
    this.node.remove();
    this.node = null;
    this.anchor.setAttribute('aria-expanded', 'false');
    if (focus) {
      this.anchor.focus();
    }
  }

  draw() {
    const status = this.poll.status;
    if (!this.poll.container) {
      this.close();
      return;
    }
    // Only what changed is drawn anew: whoever reads, selects or scrolls is left alone.
    const shown = JSON.stringify([status.container, status.incidents, this.notices.unread()]);
    if (shown !== this.drawn) {
      this.drawn = shown;
      const top = this.node.scrollTop;
      const focus = document.activeElement?.closest?.('[data-key]')?.dataset.key;
      this.node.replaceChildren(...this.content(status.container, status.incidents));
      this.node.scrollTop = top;
      if (focus && !document.activeElement?.closest('.nbguard-panel')) {
        (this.node.querySelector(`[data-key="${CSS.escape(focus)}"]`) || this.node).focus();
      }
    }
    this.place();
  }

  place() {
    const at = this.anchor.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.node;
    const left = Math.max(8, Math.min(at.left, window.innerWidth - width - 8));
    const below = at.bottom + 4 + height <= window.innerHeight;
    const top = below ? at.bottom + 4 : Math.max(8, at.top - height - 4);
    this.node.style.left = `${left}px`;
    this.node.style.top = `${top}px`;
  }

  content(container, incidents) {
    const mine = container.notebooks.find(row => this.isCurrent(row));
    const cache = (container.usage || 0) - used(container);
    const close = element('button', 'nbguard-close', '×');
    close.setAttribute('aria-label', 'Close');
    close.dataset.key = 'close';
    close.onclick = () => this.close();
    const parts = [
      element('header', '', element('h2', '', 'Memory of this container'), close),
      meter(container, mine?.memory),
      element('p', `nbguard-sum nbguard-${level(container)}`, inOneSentence(container) + '.'),
      cache > container.total / 100
        ? element('p', 'nbguard-note', `Besides ${bytes(cache)} of file cache, which the kernel takes back when needed.`)
        : null,
      container.paused ? element('p', 'nbguard-note', 'The guard is paused.') : null,
      container.dry_run ? element('p', 'nbguard-note', 'The guard only reports here; it ends nothing.') : null,
      this.notebooks(container),
      container.would?.sentence
        ? element('p', 'nbguard-note', `Should memory run short: ${container.would.sentence}`) : null,
      ...this.happened(incidents),
    ];
    return parts.filter(part => part !== null);
  }

  notebooks(container) {
    const body = element('tbody', '');
    for (const row of container.notebooks) {
      body.append(this.notebook(row, container));
    }
    const more = (container.notebooks_total || 0) - container.notebooks.length;
    const rest = [
      ...(more > 0 ? [[`${more} more notebooks`, null]] : []),
      ['Jupyter itself', container.servers],
      [`other processes (${container.unattributed.count ?? 0})`, container.unattributed.memory],
    ];
    for (const [name, memory] of rest) {
      body.append(element('tr', 'nbguard-rest', element('td', '', name), element('td', '', memory === null ? '' : bytes(memory)),
        element('td', '', memory === null ? '' : percent(memory / container.total))));
    }
    const head = element('tr', '', element('th', '', 'Notebook'), element('th', '', 'Memory'), element('th', '', 'Share'));
    return element('table', '', element('thead', '', head), body);
  }

  notebook(row, container) {
    const first = container.would?.end === row.pid;
    const notes = [
      this.isCurrent(row) ? 'this notebook' : null,
      first ? 'would be ended first' : null,
      !first && row.eligible && row.eligible !== 'yes' ? `is not ended: ${row.because || row.eligible}` : null,
      row.processes_total > 1 ? `${row.processes_total} processes` : null,
    ].filter(Boolean);
    const name = element('td', '', element('span', 'nbguard-name', called(row)));
    name.title = row.notebook || called(row);
    if (notes.length) {
      name.append(element('span', 'nbguard-note', notes.join(' · ')));
    }
    return element('tr', `${this.isCurrent(row) ? 'nbguard-current' : ''} ${first ? 'nbguard-first' : ''}`,
      name, element('td', '', bytes(row.memory)), element('td', '', percent(row.share)));
  }

  happened(incidents) {
    const told = incidents.filter(incident => incident.sentence).slice(0, 20);
    if (!told.length) {
      return [];
    }
    const unread = this.notices.unread();
    const list = element('ul', '');
    for (const incident of told) {
      list.append(element('li', unread.includes(incident.id) ? 'nbguard-unread' : '', this.incident(incident)));
    }
    return [element('h3', '', 'What happened'), list];
  }

  incident(incident) {
    const details = element('details', '',
      element('summary', '', element('time', '', when(incident.time)), ' ', headline(incident)), ...account(incident));
    details.open = this.open.has(incident.id);
    details.firstChild.dataset.key = incident.id;
    details.addEventListener('toggle', () => {
      if (details.open) {
        this.open.add(incident.id);
        this.notices.read(incident.id);
      } else {
        this.open.delete(incident.id);
      }
      this.place();
    });
    return details;
  }
}

function headline(incident) {
  const victim = incident.victim;
  if (incident.kind === 'kill' && victim) {
    return `${short(called(victim), 80)} ${incident.dry_run ? 'would have been ended' : 'was ended'}, ${bytes(victim.memory)}`;
  }
  return incident.kind === 'kernel-oom' ? 'The kernel ended a process' : 'Nothing was ended';
}

/** The whole of an incident, for the list and for the dialog. */
function account(incident) {
  const parts = [element('p', '', incident.sentence || '')];
  if (incident.freed) {
    parts.push(element('p', 'nbguard-note', `${bytes(incident.freed)} came back.`));
  }
  if (incident.stack?.length) {
    parts.push(element('p', 'nbguard-note', 'It was running:'), element('pre', '', incident.stack.join('\n')));
  }
  return parts;
}
