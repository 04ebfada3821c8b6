// Figures and names as people read them. Pure: values only.

/** 1536 → "1.5 KiB". */
function bytes(count) {
  if (typeof count !== 'number') {
    return '–';
  }
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let value = count;
  // Never "1024 MiB": what would be rounded to it is one of the next unit.
  while (value >= 1023.5 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit > 2 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** 0.314 → "31 %". */
function percent(share) {
  return typeof share === 'number' && isFinite(share) ? `${Math.round(share * 100)} %` : '–';
}

/** What cannot be taken back: the guard goes by it, and page cache worries nobody. */
function used(container) {
  return container.unreclaimable ?? container.usage ?? 0;
}

function share(container) {
  return container.total ? used(container) / container.total : 0;
}

/** 'calm', 'warning' or 'danger': how near the container is to the end of a notebook. */
function level(container) {
  if (container.threshold && used(container) >= container.threshold) {
    return 'danger';
  }
  return container.warning && used(container) >= container.warning ? 'warning' : 'calm';
}

/** The last part of a path, for narrow places. */
function short(path, most) {
  const name = path.split('/').pop() || path;
  return name.length > most ? `${name.slice(0, most - 1)}…` : name;
}

/** What a row of the guard's list is called. */
function called(row) {
  return row.path || row.notebook || (row.kernel_id && `kernel ${row.kernel_id.slice(0, 8)}`)
    || row.name || 'another notebook';
}

function when(time) {
  const date = new Date(time);
  if (isNaN(date)) {
    return '';
  }
  const today = new Date().toDateString() === date.toDateString();
  return today ? date.toLocaleTimeString() : date.toLocaleString();
}

/** The container in one sentence. */
function inOneSentence(container) {
  return `${bytes(used(container))} of ${bytes(container.total)} in use (${percent(share(container))}), `
    + `a notebook is ended at ${bytes(container.threshold)}`;
}
