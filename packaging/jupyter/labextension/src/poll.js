// Asks the server for the guard's figures: one question per window and period, none while the
// window is hidden or nothing here shows figures.

/** Milliseconds: a server without our extension is asked again so rarely. */
const ABSENT = 300_000;
/** Milliseconds: the longest wait after errors, and while there is no guard. */
const SLOWEST = 60_000;

class Poll {
  /** `ask` returns a promise of the status, `wanted` whether anybody shows it. */
  constructor(ask, wanted) {
    this.ask = ask;
    this.wanted = wanted;
    this.status = null;
    this.failures = 0;
    this.due = 0;
    this.timer = null;
    this.asking = false;
    this.listeners = new Set();
    document.addEventListener('visibilitychange', () => this.wake());
  }

  get container() {
    return this.status?.container ?? null;
  }

  /** Calls `listener` now if there are figures, and after each refresh. Returns how to stop. */
  listen(listener) {
    this.listeners.add(listener);
    if (this.status) {
      listener();
    }
    return () => this.listeners.delete(listener);
  }

  /** Something shows figures from now on, or again. */
  wake() {
    clearTimeout(this.timer);
    this.timer = null;
    if (document.hidden || this.asking || !this.wanted()) {
      return;
    }
    this.timer = setTimeout(() => this.refresh(), Math.max(0, this.due - Date.now()));
  }

  async refresh() {
    this.asking = true;
    let wait;
    try {
      this.status = await this.ask();
      this.failures = 0;
      const period = Math.max(1, this.status.period || 5) * 1000;
      wait = this.status.state === 'ok' ? period : Math.min(period * 6, SLOWEST);
    } catch (error) {
      this.status = { state: 'unreachable', container: null, incidents: [] };
      this.failures += 1;
      if (this.failures === 1) {
        console.info(`nbguard: no figures from this server: ${error.message}`);
      }
      wait = error.response?.status === 404 ? ABSENT : Math.min(5000 * 2 ** this.failures, SLOWEST);
    }
    this.asking = false;
    this.due = Date.now() + wait;
    for (const listener of [...this.listeners]) {
      try {
        listener();
      } catch (error) {
        console.error('nbguard:', error);
      }
    }
    this.wake();
  }
}
