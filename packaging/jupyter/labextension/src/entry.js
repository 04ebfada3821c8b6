// What JupyterLab's loader expects of an extension: an entry in window._JUPYTERLAB with `init` and
// `get`, as bundlers write it (module federation). It is short enough to be written by hand, which
// spares everybody the bundler: what runs in the browser is what stands in these files.

let scope = null;

/** A module that the page shares, in the version that the page uses; {} where it has none. */
async function shared(name) {
  const versions = Object.entries(scope?.[name] ?? {});
  // One that is loaded already is the one that everybody else uses.
  const [, found] = versions.find(([, entry]) => entry.loaded)
    ?? versions.sort(([a], [b]) => a.localeCompare(b, undefined, { numeric: true })).pop() ?? [];
  return found ? (await found.get())() : {};
}

const NEEDED = {
  apputils: '@jupyterlab/apputils',
  coreutils: '@jupyterlab/coreutils',
  notebook: '@jupyterlab/notebook',
  services: '@jupyterlab/services',
  statusbar: '@jupyterlab/statusbar',
  widgets: '@lumino/widgets',
};

(window._JUPYTERLAB ??= {})['nbguard-jupyter'] = {
  init(given) {
    scope = given;
  },
  async get(module) {
    if (module !== './extension') {
      throw new Error(`nbguard-jupyter has no ${module}`);
    }
    const lab = {};
    await Promise.all(Object.entries(NEEDED).map(async ([key, name]) => {
      lab[key] = await shared(name);
    }));
    const plugin = makePlugin(lab);
    return () => ({ __esModule: true, default: plugin });
  },
};
